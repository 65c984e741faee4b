"""Names of torchvision's weights."""

from __future__ import annotations

from collections.abc import Mapping

from senet.preprocessing import IMAGENET
from senet.weights.rules import AnyRule, Rule, Table, conv_norm, under

__all__ = ["DENSENET", "INCEPTION_V3", "RESNET", "SE_AS_PUBLISHED", "TABLES", "V1_5", "modules", "residual", "vgg"]

SE_AS_PUBLISHED = {
    "placement": "standard",
    "attention.kind": "se",
    "attention.gate": "sigmoid",
    "attention.squeeze": "mean",
    "attention.init": "default",
    "branch_relu": False,
}
"""Options of all networks of these libraries that no key shows."""

V1_5 = SE_AS_PUBLISHED | {"stride_first": False, "ceil_pool": False}
"""Options of these libraries' ResNets that no key shows."""


def residual(*attention: Rule) -> tuple[AnyRule, ...]:
    """Return the rules of a ResNet, with the rules of the attention inside a block."""
    block = (
        Rule("conv{n}.{p}", "branch.conv{n}.{p}"),
        Rule("bn{n}.{p}", "branch.bn{n}.{p}"),
        Rule("downsample.{n}.{p}", "shortcut.{n}.{p}"),
        *attention,
    )
    return (
        Rule("conv1.{p}", "stem.0.0.{p}"),
        Rule("bn1.{p}", "stem.0.1.{p}"),
        *under("layer{s}.{u}.", "stages.{s+1}.{u}.", block),
        Rule("fc.{p}", "head.fc.{p}"),
    )


RESNET = Table("torchvision", "torchvision's and timm's ResNets", residual(), V1_5, images=IMAGENET)


def vgg(*head: Rule) -> tuple[Table, ...]:
    """Return a table for each depth. Layers are numbered consecutively, including norms, ReLUs and pools."""
    tables = []
    for depths in ((1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)):
        rules, layer = list(head), 0
        for stage, depth in enumerate(depths, 1):
            for block in range(depth):
                rules.append(Rule(f"features.{layer}.{{p}}", f"stages.{stage}.{block}.conv.{{p}}"))
                rules.append(Rule(f"features.{layer + 1}.{{p}}", f"stages.{stage}.{block}.bn.{{p}}"))
                layer += 3
            layer += 1
        title = f"torchvision's and timm's VGG-{sum(depths) + 3} with batch norm"
        tables.append(Table("torchvision", title, tuple(rules)))
    return tuple(tables)


_DENSE_LAYER = (("norm", 1, 0), ("conv", 1, 2), ("norm", 2, 3), ("conv", 2, 5))

DENSENET = Table(
    "torchvision",
    "torchvision's and timm's DenseNets",
    (
        Rule("features.conv0.{p}", "stem.0.{p}"),
        Rule("features.norm0.{p}", "stem.1.{p}"),
        *under(
            "features.denseblock{s}.denselayer{u+1}.",
            "stages.{s+1}.{u}.branch.",
            [Rule(f"{kind}{n}.{{p}}", f"{place}.{{p}}") for kind, n, place in _DENSE_LAYER],
        ),
        # The names in torchvision's own files, which an older release wrote.
        *under(
            "features.denseblock{s}.denselayer{u+1}.",
            "stages.{s+1}.{u}.branch.",
            [Rule(f"{kind}.{n}.{{p}}", f"{place}.{{p}}", old=True) for kind, n, place in _DENSE_LAYER],
        ),
        Rule("features.transition{s}.norm.{p}", "stages.{s+2}.0.transition.0.{p}"),
        Rule("features.transition{s}.conv.{p}", "stages.{s+2}.0.transition.2.{p}"),
        Rule("features.norm5.{p}", "final.0.{p}"),
        Rule("classifier.{p}", "head.fc.{p}"),
    ),
)


def modules(places: Mapping[str, str], convs: Mapping[str, str]) -> tuple[AnyRule, ...]:
    """Return the rules of Inception modules.

    Args:
        places: Prefix of each module to our prefix.
        convs: Names of its convolutions to our names below `branches`.
    """
    found: tuple[AnyRule, ...] = ()
    for theirs, ours in places.items():
        for their_conv, our_conv in convs.items():
            found += conv_norm(f"{theirs}.{their_conv}", f"{ours}.branches.{our_conv}")
    return found


def _mixed(letters: str, stage: int, first: int, convs: Mapping[str, str]) -> tuple[AnyRule, ...]:
    return modules({f"Mixed_{stage + 2}{x}": f"stages.{stage}.{u}" for u, x in enumerate(letters, first)}, convs)


_DOUBLE = {"branch3x3dbl_{i+1}": "double3x3.{i}"}
_ENDS = {"branch1x1": "1x1.0", "branch_pool": "pool.1"}

INCEPTION_V3 = Table(
    "torchvision",
    "torchvision's and timm's Inception-v3",
    (
        *(
            rule
            for layer, place in (("1a_3x3", 0), ("2a_3x3", 1), ("2b_3x3", 2), ("3b_1x1", 4), ("4a_3x3", 5))
            for rule in conv_norm(f"Conv2d_{layer}", f"stem.{place}")
        ),
        *_mixed("bcd", 3, 0, _ENDS | {"branch5x5_{i+1}": "5x5.{i}"} | _DOUBLE),
        *_mixed("a", 4, 0, {"branch3x3": "3x3.0"} | _DOUBLE),
        *_mixed("bcde", 4, 1, _ENDS | {"branch7x7_{i+1}": "7x7.{i}", "branch7x7dbl_{i+1}": "double7x7.{i}"}),
        *_mixed("a", 5, 0, {"branch3x3_{i+1}": "3x3.{i}", "branch7x7x3_{i+1}": "7x7x3.{i}"}),
        *_mixed(
            "bc",
            5,
            1,
            _ENDS
            | {"branch3x3_1": "3x3.0", "branch3x3_2a": "3x3.1.0", "branch3x3_2b": "3x3.1.1"}
            | {"branch3x3dbl_1": "double3x3.0", "branch3x3dbl_2": "double3x3.1"}
            | {"branch3x3dbl_3a": "double3x3.2.0", "branch3x3dbl_3b": "double3x3.2.1"},
        ),
        Rule("fc.{p}", "head.fc.{p}"),
    ),
)

TABLES = (
    RESNET,
    *vgg(
        Rule("classifier.0.{p}", "head.hidden.0.{p}"),
        Rule("classifier.3.{p}", "head.hidden.3.{p}"),
        Rule("classifier.6.{p}", "head.fc.{p}"),
    ),
    DENSENET,
    INCEPTION_V3,
)
