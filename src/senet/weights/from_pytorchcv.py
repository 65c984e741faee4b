"""Names of pytorchcv's weights."""

from __future__ import annotations

from dataclasses import replace

from senet.preprocessing import CIFAR, IMAGENET
from senet.weights.from_torchvision import SE_AS_PUBLISHED, modules
from senet.weights.rules import AnyRule, Folded, Rule, Table, conv_norm, under

__all__ = ["TABLES"]

# From cifar10_cls_dataset.py of its sister project's training scripts. The ImageNet scripts use the usual statistics.
_CIFAR_IMAGES = replace(CIFAR, std=(0.2023, 0.1994, 0.2010))

_PADDED = SE_AS_PUBLISHED | {"ceil_pool": False}

_OUTPUT = (Rule("output.{p}", "head.fc.{p}"),)
_SE = (Rule("se.conv{n}.{p}", "se.fc{n}.{p}", kernel=1),)


def _blocks(*rules: Rule, first: int = 2) -> tuple[AnyRule, ...]:
    return under("features.stage{s}.unit{u+1}.", f"stages.{{s+{first - 1}}}.{{u}}.", rules)


_RESIDUAL = (
    Rule("body.conv{n}.conv.{p}", "branch.conv{n}.{p}"),
    Rule("body.conv{n}.bn.{p}", "branch.bn{n}.{p}"),
    *conv_norm("identity_conv", "shortcut"),
    *_SE,
)
_STEM = conv_norm("features.init_block", "stem")

_RESNETS = (
    Table(
        "pytorchcv",
        "pytorchcv's ResNets",
        (*conv_norm("features.init_block.conv", "stem.0"), *_blocks(*_RESIDUAL), *_OUTPUT),
        _PADDED,
        images=IMAGENET,
    ),
    Table(
        "pytorchcv",
        "pytorchcv's SENets",
        (
            *conv_norm("features.init_block.conv{n+1}", "stem.{n}"),
            *_blocks(*_RESIDUAL),
            Rule("output.fc.{p}", "head.fc.{p}"),
        ),
        _PADDED | {"stride_first": False},
        images=IMAGENET,
    ),
    Table(
        "pytorchcv",
        "pytorchcv's ResNets for CIFAR",
        (*_STEM, *_blocks(*_RESIDUAL), *_OUTPUT),
        SE_AS_PUBLISHED,
        images=_CIFAR_IMAGES,
    ),
)

# The first norm belongs to the block, the norms of the other convolutions to the branch.
_PREACT = (
    Rule("body.conv1.bn.{p}", "preact.0.{p}"),
    Rule("body.conv{n:[23]}.bn.{p}", "branch.bn{n:[23]}.{p}"),
    Rule("body.conv{n}.conv.{p}", "branch.conv{n}.{p}"),
    Rule("identity_conv.{p}", "shortcut.{p}"),
    *_SE,
)
_PREACTS = (
    Table(
        "pytorchcv",
        "pytorchcv's pre-activation ResNets for CIFAR",
        (
            Rule("features.init_block.{p}", "stem.{p}"),
            *_blocks(*_PREACT),
            Rule("features.post_activ.bn.{p}", "final.0.{p}"),
            *_OUTPUT,
        ),
        SE_AS_PUBLISHED,
        images=_CIFAR_IMAGES,
    ),
    Table(
        "pytorchcv",
        "pytorchcv's pre-activation SE-ResNets for CIFAR",
        (*_STEM, *_blocks(*_PREACT), *_OUTPUT),
        SE_AS_PUBLISHED | {"stem_norm": True},
        images=_CIFAR_IMAGES,
    ),
)

_SHAKE = (
    Rule("branch1.conv{n}.conv.{p}", "branch.first.conv{n}.{p}"),
    Rule("branch1.conv{n}.bn.{p}", "branch.first.bn{n}.{p}"),
    Rule("branch2.conv{n}.conv.{p}", "branch.second.conv{n}.{p}"),
    Rule("branch2.conv{n}.bn.{p}", "branch.second.bn{n}.{p}"),
    Rule("identity_branch.conv{n}.{p}", "shortcut.conv{n}.{p}"),
    Rule("identity_branch.bn.{p}", "shortcut.bn.{p}"),
)
SHAKE = Table(
    "pytorchcv",
    "pytorchcv's Shake-Shake ResNets",
    (*_STEM, *_blocks(*_SHAKE), *_OUTPUT),
)
"""Renames only. pytorchcv's Shake-Shake sums differently from Gastaldi's, so it is not in `TABLES`."""

_VGG = Table(
    "pytorchcv",
    "pytorchcv's VGGs with batch norm",
    (
        *under(
            "features.stage{s}.unit{u+1}.",
            "stages.{s}.{u}.",
            (Rule("conv.{p}", "conv.{p}"), Rule("bn.{p}", "bn.{p}")),
        ),
        Rule("output.fc1.fc.{p}", "head.hidden.0.{p}"),
        Rule("output.fc2.fc.{p}", "head.hidden.3.{p}"),
        Rule("output.fc3.{p}", "head.fc.{p}"),
    ),
    zero="stages.{s}.{u}.conv.{p:bias}",
)
"""pytorchcv's `bn_vgg16` has no biases before the norms, its `bn_vgg16b` has."""

_DENSE_LAYER = (
    Rule("conv1.bn.{p}", "branch.0.{p}"),
    Rule("conv1.conv.{p}", "branch.2.{p}"),
    Rule("conv2.bn.{p}", "branch.3.{p}"),
    Rule("conv2.conv.{p}", "branch.5.{p}"),
)
_DENSENET = Table(
    "pytorchcv",
    "pytorchcv's DenseNets",
    (
        *_STEM,
        *_blocks(*_DENSE_LAYER),
        *(
            rule
            for s in (2, 3, 4)
            for rule in under(
                f"features.stage{s}.trans{s}.conv.",
                f"stages.{s + 1}.0.transition.",
                (Rule("bn.{p}", "0.{p}"), Rule("conv.{p}", "2.{p}")),
            )
        ),
        Rule("features.post_activ.bn.{p}", "final.0.{p}"),
        *_OUTPUT,
    ),
)

_MOBILENET = Table(
    "pytorchcv",
    "pytorchcv's MobileNets",
    (
        *_STEM,
        *under(
            "features.stage{s}.unit{u+1}.",
            "stages.{s}.{u}.",
            (*conv_norm("dw_conv", "depthwise"), *conv_norm("pw_conv", "pointwise")),
        ),
        *_OUTPUT,
    ),
    {"activation": "relu"},
)

_SHUFFLE_BLOCK = tuple(
    Rule(f"{name}_{kind}{n}.{{p}}", f"{kind}{n}.{{p}}")
    for n, name in ((1, "compress"), (2, "dw"), (3, "expand"))
    for kind in ("conv", "bn")
)
_SHUFFLENET = Table("pytorchcv", "pytorchcv's ShuffleNets", (*_STEM, *_blocks(*_SHUFFLE_BLOCK), *_OUTPUT))


def _places(stage: int, blocks: str) -> dict[str, str]:
    """Map the prefix of modules to ours. `blocks` has the block number on both sides: `1=0` or `{u+2}={u+1}`."""
    theirs, ours = blocks.split("=")
    return {f"features.stage{stage}.unit{theirs}.branches": f"stages.{stage + 2}.{ours}"}


def _folded(rules: tuple[AnyRule, ...]) -> tuple[AnyRule, ...]:
    """Adapt the rules to convolutions with a bias before the norm."""
    found: list[AnyRule] = []
    for rule in rules:
        if isinstance(rule, Rule) and rule.theirs.endswith(".conv.{p}"):
            conv = rule.theirs.removesuffix("{p}")
            norm = rule.ours.removesuffix("0.{p}") + "1"
            found.append(Rule(conv + "{p:weight}", rule.ours.replace("{p}", "{p:weight}")))
            found.append(Folded(conv + "bias", norm + ".running_mean"))
        else:
            found.append(rule)
    return tuple(found)


_ENDS = {"branch1": "1x1.0", "branch4.conv": "pool.1"}
_SAME = _ENDS | {"branch2.conv{i+1}": "3x3.{i}", "branch3.conv{i+1}": "double3x3.{i}"}
_HALVING = {"branch1.conv{i+1}": "3x3.{i}", "branch2.conv{i+1}": "double3x3.{i}"}

_BN_INCEPTION = Table(
    "pytorchcv",
    "pytorchcv's BN-Inception",
    _folded(
        (
            *conv_norm("features.init_block.conv1", "stem.0"),
            *conv_norm("features.init_block.conv2.conv{n}", "stem.{n+1}"),
            *modules(_places(1, "{u+1}={u}"), _SAME),
            *modules(_places(2, "1=0") | _places(3, "1=0"), _HALVING),
            *modules(_places(2, "{u+2}={u+1}") | _places(3, "{u+2}={u+1}"), _SAME),
            *_OUTPUT,
        )
    ),
)


def _listed(**branches: str) -> dict[str, str]:
    return {f"{theirs}.conv_list.conv{{i+1}}": f"{ours}.{{i}}" for theirs, ours in branches.items()}


_INCEPTION_STEM = tuple(
    rule
    for number, place in enumerate((0, 1, 2, 4, 5), 1)
    for rule in conv_norm(f"features.init_block.conv{number}", f"stem.{place}")
)
_OUTER = {"branch1.conv": "1x1.0", "branch4.conv": "pool.1"}
_FORKS = {
    "branch2.conv_list.conv1": "3x3.0",
    "branch2.conv1x3": "3x3.1.0",
    "branch2.conv3x1": "3x3.1.1",
    "branch3.conv_list.conv1": "double3x3.0",
    "branch3.conv_list.conv2": "double3x3.1",
    "branch3.conv1x3": "double3x3.2.0",
    "branch3.conv3x1": "double3x3.2.1",
}
_INCEPTION_V3 = Table(
    "pytorchcv",
    "pytorchcv's Inception-v3",
    (
        *_INCEPTION_STEM,
        *modules(_places(1, "{u+1}={u}"), _OUTER | _listed(branch2="5x5", branch3="double3x3")),
        *modules(_places(2, "1=0"), _listed(branch1="3x3", branch2="double3x3")),
        *modules(_places(2, "{u+2}={u+1}"), _OUTER | _listed(branch2="7x7", branch3="double7x7")),
        *modules(_places(3, "1=0"), _listed(branch1="3x3", branch2="7x7x3")),
        *modules(_places(3, "{u+2}={u+1}"), _OUTER | _FORKS),
        Rule("output.fc.{p}", "head.fc.{p}"),
    ),
)

_FIRST = {"branch1.conv": "1x1.0"}
_POSITIVE = r"{u:[1-9]\d*}"
_INCEPTION_RESNET = Table(
    "pytorchcv",
    "pytorchcv's Inception-ResNet-v2",
    (
        *_INCEPTION_STEM,
        *modules(
            {"features.init_block.block.branches": "stages.3.0"},
            _OUTER | _listed(branch2="5x5", branch3="double3x3"),
        ),
        *modules(_places(1, _POSITIVE + "=" + _POSITIVE), _FIRST | _listed(branch2="3x3", branch3="double3x3")),
        *modules(_places(2, "1=0"), _listed(branch1="3x3", branch2="double3x3")),
        *modules(_places(2, "{u+2}={u+1}"), _FIRST | _listed(branch2="7x7")),
        *modules(_places(3, "1=0"), _listed(branch1="3x3", branch2="3x3b", branch3="double3x3")),
        *modules(_places(3, "{u+2}={u+1}"), _FIRST | _listed(branch2="3x3")),
        Rule(f"features.stage1.unit{_POSITIVE}.conv.{{p}}", f"stages.3.{_POSITIVE}.project.{{p}}"),
        Rule("features.stage{s:[23]}.unit{u+1}.conv.{p}", "stages.{s+2}.{u}.project.{p}"),
        *conv_norm("features.final_conv", "stages.5.11"),
        Rule("output.fc.{p}", "head.fc.{p}"),
    ),
)

TABLES = (
    *_RESNETS,
    *_PREACTS,
    _VGG,
    _DENSENET,
    _MOBILENET,
    _SHUFFLENET,
    _BN_INCEPTION,
    _INCEPTION_V3,
    _INCEPTION_RESNET,
)
