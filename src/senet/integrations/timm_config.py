"""timm's configuration of a network of this package. Needs no timm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from senet.models import ModelSpec
from senet.models.bn_inception import BNInceptionSpec
from senet.models.inception_resnet_v2 import InceptionResNetV2Spec
from senet.models.inception_v3 import InceptionV3Spec
from senet.models.resnet import ResNetSpec
from senet.models.resnet_cifar import PreActSpec
from senet.models.vgg import VGGSpec
from senet.preprocessing import IMAGENET, Preprocessing

__all__ = ["CLASSIFIER", "PREFIX", "first_convolution", "for_timm", "image_config", "timm_config"]

PREFIX: Final = "senet_"
"""Start of the networks' names in timm's registry."""

CLASSIFIER: Final = "head.fc"

_FIRST_CONVOLUTION: Final[dict[type[ModelSpec], str]] = {
    **dict.fromkeys((ResNetSpec, BNInceptionSpec, InceptionV3Spec, InceptionResNetV2Spec), "stem.0.0"),
    PreActSpec: "stem",
    VGGSpec: "stages.1.0.conv",
}
"""Paths that aren't `stem.0`."""


def first_convolution(spec: ModelSpec) -> str:
    """Return the path of the network's first convolution."""
    return _FIRST_CONVOLUTION.get(type(spec), "stem.0")


def for_timm(images: Preprocessing) -> Preprocessing:
    """Return a preprocessing that timm can apply. Instead of Caffe's (BGR in 0..255) it is ImageNet's."""
    if images.channel_order == "RGB" and images.value_range == 1.0:
        return images
    return replace(IMAGENET, size=images.size, crop_fraction=images.crop_fraction, interpolation=images.interpolation)


def image_config(images: Preprocessing) -> dict[str, Any]:
    """Return timm's configuration of the images."""
    return {
        "input_size": (images.in_channels, *images.size),
        "crop_pct": images.crop_fraction,
        "interpolation": images.interpolation,
        "mean": images.mean,
        "std": images.std,
    }


def timm_config(spec: ModelSpec, images: Preprocessing) -> dict[str, Any]:
    """Return timm's configuration of a network and of its images."""
    stride = spec.feature_info[-1].stride
    # Unpadded convolutions of the networks for 299 pixels cut off the borders.
    pool_size = tuple(side // stride - (side == 299) for side in images.size)
    return image_config(images) | {
        "pool_size": pool_size,
        "num_classes": spec.num_classes,
        "first_conv": first_convolution(spec),
        "classifier": CLASSIFIER,
    }
