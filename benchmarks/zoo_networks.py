"""List the networks of three libraries by name, each with its builder and its inputs."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from timm.models import _registry
from torch import nn

__all__ = ["Network", "find", "names"]


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: "timm:resnet50".
        family: The library's file of the network.
        build: Builds it with random weights.
        sizes: Input sizes without batch and channels, the cheapest first. The network may refuse some.
        detector: Whether it takes a list of images, and targets in training.
        channels: Channels of its input.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    sizes: Sequence[tuple[int, ...]]
    detector: bool = False
    channels: int = 3

    def inputs(self, size: tuple[int, ...], *, training: bool) -> tuple[Any, ...]:
        """Return random positional arguments."""
        if not self.detector:
            return (torch.randn(2, self.channels, *size),)
        images = [torch.rand(self.channels, *size) for _ in range(2)]
        if not training:
            return (images,)
        height, width = size
        target = {
            "boxes": torch.tensor([[4.0, 4.0, width / 2, height / 2]]),
            "labels": torch.tensor([1]),
            "masks": torch.ones(1, height, width, dtype=torch.uint8),
            "keypoints": torch.tensor([[[8.0, 8.0, 1.0]] * 17]),
        }
        return images, [target, target]


@cache
def names() -> tuple[str, ...]:
    """Return all networks: torchvision's tasks, segmentation_models_pytorch's, timm's."""
    models = torchvision.models
    found = [
        f"torchvision:{name}"
        for module in (models, models.detection, models.segmentation, models.video)
        for name in models.list_models(module=module)
    ]
    found += [f"smp:{name}-resnet34" for name in ARCHITECTURES]
    found += [f"smp:Unet-{name}" for name in smp.encoders.get_encoder_names() if name != "resnet34"]
    return (*(f"timm:{name}" for name in timm.list_models()), *found)


ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "Linknet", "MAnet", "PAN", "UPerNet",
    "Segformer",
)  # fmt: skip


@cache
def find(name: str) -> Network:
    """Return the network of this name."""
    library, _, rest = name.partition(":")
    return {"timm": _timm, "torchvision": _torchvision, "smp": _smp}[library](name, rest)


def _timm(name: str, rest: str) -> Network:
    config = timm.get_pretrained_cfg(rest) or _registry.PretrainedCfg()
    channels, height, width = config.input_size
    own = (height, width)
    small = [] if config.fixed_input_size else [(64, 64), (96, 96), (128, 128)]
    family = f"timm {timm.model_entrypoint(rest).__module__.rpartition('.')[2]}"
    return Network(name, family, lambda: timm.create_model(rest), [*small, own], channels=channels)


def _torchvision(name: str, rest: str) -> Network:
    module = torchvision.models.get_model_builder(rest).__module__
    family = "torchvision " + module.removeprefix("torchvision.models.")
    nothing: dict[str, Any] = {"weights": None}
    if ".detection" in module or ".segmentation" in module:
        nothing["weights_backbone"] = None
    if rest in ("googlenet", "inception_v3"):
        nothing["init_weights"] = False
    sizes: list[tuple[int, ...]] = [(64, 64), (96, 96), (128, 128), (224, 224), (299, 299)]
    if ".detection" in module and not fnmatch.fnmatch(rest, "ssd*"):
        nothing |= {"min_size": 160, "max_size": 160}
    if "rcnn" in rest:
        nothing |= {f"rpn_{when}_nms_top_n_{mode}": 50 for when in ("pre", "post") for mode in ("train", "test")}
    if ".video" in module:
        sizes = [(8, 64, 64), (16, 112, 112), (16, 224, 224)]
    if ".detection" in module:
        sizes = [(160, 160)]
    return Network(
        name, family, lambda: torchvision.models.get_model(rest, **nothing), sizes, ".detection" in module
    )  # fmt: skip


def _smp(name: str, rest: str) -> Network:
    architecture, _, encoder = rest.partition("-")
    return Network(
        name,
        f"smp {architecture}",
        lambda: getattr(smp, architecture)(encoder_name=encoder, encoder_weights=None),
        [(64, 64), (128, 128), (224, 224)],
    )
