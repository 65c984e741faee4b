"""Names of the most used CIFAR ResNet checkpoints (32x32 images), and of moskomule's senet.pytorch."""

from __future__ import annotations

from dataclasses import replace

from senet.preprocessing import CIFAR as CIFAR_IMAGES
from senet.preprocessing import IMAGENET
from senet.weights.from_torchvision import SE_AS_PUBLISHED, V1_5, residual
from senet.weights.rules import Rule, Table, under

__all__ = ["CIFAR", "MOSKOMULE"]

_BLOCK = (
    Rule("conv{n}.{p}", "branch.conv{n}.{p}"),
    Rule("bn{n}.{p}", "branch.bn{n}.{p}"),
)
_STEM = (Rule("conv1.{p}", "stem.0.{p}"), Rule("bn1.{p}", "stem.1.{p}"))

CIFAR = (
    Table(
        "cifar",
        "CIFAR ResNets with option-A shortcuts",
        (*_STEM, *under("layer{s}.{u}.", "stages.{s+1}.{u}.", _BLOCK), Rule("linear.{p}", "head.fc.{p}")),
        SE_AS_PUBLISHED | {"projection": False},
        # akamaster's trainer.py uses ImageNet's statistics.
        images=replace(CIFAR_IMAGES, mean=IMAGENET.mean, std=IMAGENET.std),
    ),
)
"""The CIFAR ResNets of the paper, with parameter-free shortcuts."""

# The two linear layers of a Sequential with a ReLU between: fc.0 and fc.2.
_SE = (Rule("se.fc.0.{p}", "se.fc1.{p}"), Rule("se.fc.2.{p}", "se.fc2.{p}"))

MOSKOMULE = (
    Table("moskomule", "moskomule's SE-ResNets", residual(*_SE), V1_5),
    Table(
        "moskomule",
        "moskomule's SE-ResNets for CIFAR",
        (
            *_STEM,
            *under(
                "layer{s}.{u}.",
                "stages.{s+1}.{u}.",
                (*_BLOCK, Rule("downsample.{n}.{p}", "shortcut.{n}.{p}"), *_SE),
            ),
            Rule("fc.{p}", "head.fc.{p}"),
        ),
        SE_AS_PUBLISHED,
    ),
)
