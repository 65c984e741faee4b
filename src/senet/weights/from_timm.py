"""Names of timm's current weights."""

from __future__ import annotations

from dataclasses import replace

from senet.preprocessing import IMAGENET
from senet.weights.from_torchvision import DENSENET, INCEPTION_V3, RESNET, V1_5, modules, residual, vgg
from senet.weights.rules import Rule, Table, conv_norm, under

__all__ = ["TABLES"]

_SE_RESNET = Table(
    "timm",
    "timm's SE-ResNets",
    residual(Rule("se.fc{n}.{p}", "se.fc{n}.{p}", kernel=1)),
    V1_5,
    rounding="timm",
    images=IMAGENET,
)

_VGG = vgg(
    Rule("pre_logits.fc1.{p}", "head.hidden.0.{p}", kernel=7),
    Rule("pre_logits.fc2.{p}", "head.hidden.3.{p}", kernel=1),
    Rule("head.fc.{p}", "head.fc.{p}"),
)

_MOBILENET = Table(
    "timm",
    "timm's MobileNet",
    (
        Rule("conv_stem.{p}", "stem.0.{p}"),
        Rule("bn1.{p}", "stem.1.{p}"),
        *under(
            "blocks.{s}.{u}.",
            "stages.{s+1}.{u}.",
            (
                Rule("conv_dw.{p}", "depthwise.0.{p}"),
                Rule("bn1.{p}", "depthwise.1.{p}"),
                Rule("conv_pw.{p}", "pointwise.0.{p}"),
                Rule("bn2.{p}", "pointwise.1.{p}"),
            ),
        ),
        Rule("classifier.{p}", "head.fc.{p}"),
    ),
    {"activation": "relu6"},
)

_STAGES = {
    3: "repeat.{u}",
    4: "repeat_1.{u}",
    5: "repeat_2.{u:[0-8]}",  # the tenth is called `block8`
}
_REPEATS = {theirs: f"stages.{stage}.{{u+1}}" for stage, theirs in _STAGES.items()} | {"block8": "stages.5.10"}
_ONE, _THREE, _DOUBLE = {"branch0": "1x1.0"}, {"branch1.{i}": "3x3.{i}"}, {"branch2.{i}": "double3x3.{i}"}


def _repeats(stage: int) -> dict[str, str]:
    return {theirs: ours for theirs, ours in _REPEATS.items() if ours.startswith(f"stages.{stage}.")}


_INCEPTION_RESNET = Table(
    "timm",
    "timm's Inception-ResNet-v2",
    (
        *(
            rule
            for layer, place in (("1a", 0), ("2a", 1), ("2b", 2), ("3b", 4), ("4a", 5))
            for rule in conv_norm(f"conv2d_{layer}", f"stem.{place}")
        ),
        *modules({"mixed_5b": "stages.3.0"}, _ONE | {"branch1.{i}": "5x5.{i}"} | _DOUBLE | {"branch3.1": "pool.1"}),
        *modules(_repeats(3), _ONE | _THREE | _DOUBLE),
        *modules({"mixed_6a": "stages.4.0"}, {"branch0": "3x3.0", "branch1.{i}": "double3x3.{i}"}),
        *modules(_repeats(4), _ONE | {"branch1.{i}": "7x7.{i}"}),
        *modules({"mixed_7a": "stages.5.0"}, {"branch0.{i}": "3x3.{i}", "branch1.{i}": "3x3b.{i}"} | _DOUBLE),
        *modules(_repeats(5), _ONE | _THREE),
        *(Rule(f"{theirs}.conv2d.{{p}}", f"{ours}.project.{{p}}") for theirs, ours in _REPEATS.items()),
        *conv_norm("conv2d_7b", "stages.5.11"),
        Rule("classif.{p}", "head.fc.{p}"),
        Rule("last_linear.{p}", "head.fc.{p}", old=True),
    ),
)

TABLES = tuple(
    replace(table, layout="timm")
    for table in (RESNET, _SE_RESNET, *_VGG, DENSENET, INCEPTION_V3, _MOBILENET, _INCEPTION_RESNET)
)
