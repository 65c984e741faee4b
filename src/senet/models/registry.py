"""The registry: every network spec by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from senet.models import (
    bn_inception,
    densenet,
    inception_resnet_v2,
    inception_v3,
    mobilenet_v1,
    resnet,
    resnet_cifar,
    shufflenet_v1,
    vgg,
)
from senet.models.spec import ModelSpec

__all__ = ["MODELS"]

_FAMILIES: tuple[Mapping[str, ModelSpec], ...] = (
    resnet.VARIANTS,
    resnet_cifar.VARIANTS,
    vgg.VARIANTS,
    densenet.VARIANTS,
    mobilenet_v1.VARIANTS,
    shufflenet_v1.VARIANTS,
    bn_inception.VARIANTS,
    inception_v3.VARIANTS,
    inception_resnet_v2.VARIANTS,
)

MODELS: dict[str, ModelSpec] = {name: replace(spec, name=name) for family in _FAMILIES for name, spec in family.items()}
"""The spec of each network, by name. Each spec contains its name."""

assert len(MODELS) == sum(map(len, _FAMILIES)), "two families share a name"
