"""Transforms of images together with their boxes or masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from senet.data.aspect_ratio import ScaleJitter, Shorten, bounded
from senet.data.augmentation import Augmentation
from senet.data.dense import Target
from senet.data.masks import IGNORE_INDEX
from senet.data.transforms import INTERPOLATIONS, LONGEST, ToMode, mean_colour, to_tensor
from senet.errors import SenetError
from senet.preprocessing import Preprocessing

__all__ = [
    "DETECTION_CROPS",
    "SEGMENTATION_CROPS",
    "JointTransform",
    "boxes_transform",
    "check_augmentation",
    "masks_transform",
    "resized_to",
]

DETECTION_CROPS = ("none", "scale-jitter")
SEGMENTATION_CROPS = ("scale-jitter", "none")

READ = ("crop", "scale_jitter", "hflip", "vflip", "rotation", "translate", "color_jitter")
"""Fields of `Augmentation` that have an effect here, see `_varied`."""

FLAGS = ("crowd", "difficult")
"""Flags of single boxes."""


class JointTransform:
    """(PIL image, target of arrays) -> (tensor, target of tensors).

    Args:
        together: Steps for image and target. They receive a PIL image, `BoundingBoxes` and `Mask`.
        pixels: Last step, for the image alone: PIL image -> (C, H, W) float32.
        mode: First step, for the image alone.
    """

    def __init__(self, together: Sequence[nn.Module], pixels: Callable[[Image.Image], Tensor], *, mode: ToMode) -> None:
        self.together = v2.Compose([*together, v2.Identity()])
        self.pixels = pixels
        self.mode = mode

    def __call__(self, image: Image.Image, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """Transform one sample."""
        image, wrapped = self.together(self.mode(image), _wrapped(target, image.size))
        return self.pixels(image), {key: torch.as_tensor(value).as_subclass(Tensor) for key, value in wrapped.items()}

    def alone(self, image: Image.Image) -> Tensor:
        """Transform an image without annotations."""
        return self.pixels(self.mode(image))


def _wrapped(target: Target, size: tuple[int, int]) -> dict[str, Any]:
    """Wrap arrays in the types of torchvision's transforms."""
    if "mask" in target:
        return {"mask": tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(target["mask"])))}
    boxes = torch.from_numpy(target["boxes"].copy())
    return {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size[::-1]),
        "labels": torch.from_numpy(target["labels"].copy()),
        **{flag: torch.from_numpy(target[flag].copy()) for flag in FLAGS},
    }


def resized_to(image: Image.Image, target: Target, edge: int) -> tuple[Image.Image, dict[str, Tensor]]:
    """Resize an image with its boxes or mask so that its longer edge has `edge` pixels.

    Args:
        image: In any mode.
        target: Arrays or tensors.
        edge: Longer edge of the result, in pixels.
    """
    height, width = (max(1, round(side * edge / max(image.size))) for side in image.size[::-1])
    wrapped = _wrapped({key: np.asarray(value) for key, value in target.items()}, image.size)
    image, wrapped = v2.Resize([height, width])(image, wrapped)
    return image, {key: torch.as_tensor(value).as_subclass(Tensor) for key, value in wrapped.items()}


def check_augmentation(augmentation: Augmentation, crops: Sequence[str], task: str) -> None:
    """Raise a `SenetError` for an augmentation that has no effect on this task."""
    if augmentation.crop not in crops:
        raise SenetError(f"crop={augmentation.crop!r} isn't for {task}; use {' or '.join(map(repr, crops))}")
    for field in fields(Augmentation):
        if field.name not in READ and getattr(augmentation, field.name) != field.default:
            raise SenetError(
                f"{field.name}={getattr(augmentation, field.name)} has no effect on {task}; use {field.default}"
            )


def boxes_transform(preprocessing: Preprocessing, augmentation: Augmentation | None = None) -> JointTransform:
    """Make the transform for detection: the image in 0..1 at its own size. The network normalises and resizes.

    A very long image is bounded, see `senet.data.aspect_ratio`.

    Args:
        preprocessing: Channels, and the size of a scale-jittered crop.
        augmentation: Random changes, or None for evaluation.
    """
    steps: list[nn.Module] = [Shorten(max(preprocessing.size))]
    if augmentation is not None:
        steps += [*_varied(preprocessing, augmentation), v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(
            labels_getter=_labels)]  # fmt: skip
    return JointTransform(steps, _UnitRange(preprocessing), mode=ToMode(preprocessing))


def masks_transform(
    preprocessing: Preprocessing, augmentation: Augmentation | None = None, *, stride: int = 32
) -> JointTransform:
    """Make the transform for segmentation: normalised images, as crops of one size in training and whole in evaluation.

    In evaluation the shorter edge becomes the shorter of `preprocessing.size`, and both become multiples of `stride`.
    The mask keeps its size, since a prediction is resized to it.

    Args:
        preprocessing: Channels, normalisation, size.
        augmentation: Random changes, or None for evaluation.
        stride: Divisor of the network's input sizes.
    """
    pixels = v2.Compose(to_tensor(preprocessing))
    mode = ToMode(preprocessing)
    if augmentation is None:
        return JointTransform([], v2.Compose([_Fit(preprocessing, stride), pixels]), mode=mode)
    steps = _varied(preprocessing, augmentation)
    if augmentation.crop == "none":
        steps = [*_zoomed(preprocessing, (1.0, 1.0)), *steps]
    return JointTransform(steps, pixels, mode=mode)


def _varied(preprocessing: Preprocessing, a: Augmentation) -> list[nn.Module]:
    moved = v2.RandomAffine(
        a.rotation, (a.translate, a.translate), interpolation=INTERPOLATIONS["bilinear"], fill=_border(preprocessing)
    )
    steps = _zoomed(preprocessing, a.scale_jitter) if a.crop == "scale-jitter" else []
    varied = [
        (a.hflip, v2.RandomHorizontalFlip(a.hflip)),
        (a.vflip, v2.RandomVerticalFlip(a.vflip)),
        (a.rotation or a.translate, moved),
        (a.color_jitter, v2.ColorJitter(a.color_jitter, a.color_jitter, a.color_jitter)),
    ]
    return [*steps, *(step for strength, step in varied if strength)]


def _zoomed(preprocessing: Preprocessing, zoom: tuple[float, float]) -> list[nn.Module]:
    """Scale the image by a random factor relative to the fitting size, then crop or pad at random."""
    scaled = ScaleJitter(preprocessing.size, zoom, INTERPOLATIONS[preprocessing.interpolation])
    return [scaled, v2.RandomCrop(preprocessing.size, pad_if_needed=True, fill=_border(preprocessing))]


def _border(preprocessing: Preprocessing) -> dict[Any, Any]:
    """Return the fill values: the mean colour around images, `IGNORE_INDEX` around masks."""
    return {Image.Image: mean_colour(preprocessing), tv_tensors.Mask: IGNORE_INDEX, tv_tensors.BoundingBoxes: 0}


def _labels(inputs: Any) -> list[Tensor]:
    """Return all tensors that have one entry for each box."""
    return [inputs[1][key] for key in ("labels", *FLAGS)]


class _UnitRange:
    """PIL image -> (C, H, W) float32 in 0..1, in the network's channel order."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.reverse = preprocessing.channel_order == "BGR"
        self.longest = max(preprocessing.size)
        self.fill = mean_colour(preprocessing)

    def __call__(self, image: Image.Image) -> Tensor:
        tensor: Tensor = v2.functional.pil_to_tensor(bounded(image, self.longest, self.fill)).float() / 255
        return tensor.flip(0) if self.reverse else tensor


class _Fit(nn.Module):
    """Resize so that the shorter edge is near the size's, and both are multiples of the stride.

    The longer edge is at most `LONGEST` times the size's shorter one. Otherwise 10 x 10,000 pixels would become 512 x
    512,000.
    """

    def __init__(self, preprocessing: Preprocessing, stride: int) -> None:
        super().__init__()
        self.shorter = min(preprocessing.size)
        self.stride = stride
        self.interpolation = INTERPOLATIONS[preprocessing.interpolation]

    def forward(self, image: Image.Image) -> Image.Image:
        """PIL image -> PIL image."""
        factor = min(self.shorter / min(image.size), LONGEST * self.shorter / max(image.size))
        width, height = (max(1, round(edge * factor / self.stride)) * self.stride for edge in image.size)
        return v2.functional.resize(image, [height, width], interpolation=self.interpolation)
