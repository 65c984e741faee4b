"""From a picture to the tensor a network expects: exactly for evaluation, varied for training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import ConvertImageDtype, InterpolationMode, v2

from senet.data.augmentation import Augmentation
from senet.errors import SenetError
from senet.preprocessing import Preprocessing

__all__ = ["Cover", "PixelJitter", "eval_transform", "to_tensor", "train_transform"]

INTERPOLATIONS = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

MODES = {"RGB": v2.RGB, "BGR": v2.RGB, "L": v2.Grayscale}

LONGEST = 16
"""A picture longer than this many times its width is cut to it first: a 1 x 10,000 sliver, resized to cover
224 x 224, would fill gigabytes, of which the centre crop keeps a thousandth."""


def eval_transform(preprocessing: Preprocessing) -> v2.Compose:
    """PIL image -> (C, H, W) float32, by resizing, centre crop, scaling and normalising.

    Resizing is Pillow's (with its antialiasing), as in the presets of torchvision's weights.
    """
    return v2.Compose([MODES[preprocessing.channel_order](), *_whole(preprocessing), *to_tensor(preprocessing)])


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> v2.Compose:
    """PIL image -> (C, H, W) float32, randomly varied; every draw comes from torch's global CPU generator."""
    a = augmentation
    if a.crop not in CROPS:
        raise SenetError(f"crop={a.crop!r} is for detection and segmentation; use {', '.join(map(repr, CROPS))}")
    moved = v2.RandomAffine(a.rotation, (a.translate, a.translate), interpolation=InterpolationMode.BILINEAR)
    varied = [
        (a.flip, v2.RandomHorizontalFlip(a.flip)),
        (a.flip_vertical, v2.RandomVerticalFlip(a.flip_vertical)),
        (a.rotation or a.translate, moved),
        (a.jitter, v2.ColorJitter(a.jitter, a.jitter, a.jitter)),
        (a.pixel_jitter, v2.Compose([v2.PILToTensor(), PixelJitter(a.pixel_jitter)])),
    ]
    return v2.Compose(
        [
            MODES[preprocessing.channel_order](),
            *CROPS[a.crop](preprocessing, a),
            *(step for strength, step in varied if strength),
            *to_tensor(preprocessing),
            *([v2.RandomErasing(a.erasing)] if a.erasing else []),
        ]
    )


class Cover(nn.Module):
    """Resize a picture, keeping its shape, so that it just covers a rectangle.

    For a square one this is torchvision's `Resize(edge)`: the shorter edge becomes `edge`.

    Args:
        size: Height and width to cover, in pixels.
        interpolation: How pixels are computed.
    """

    def __init__(self, size: tuple[int, int], interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.interpolation = interpolation

    def forward(self, image: Image.Image) -> Image.Image:
        """PIL image -> PIL image."""
        height, width = self.size
        longest = LONGEST * max(height / width, width / height)
        cut = min(image.width, int(longest * image.height)), min(image.height, int(longest * image.width))
        if cut != image.size:
            image = v2.functional.center_crop(image, [cut[1], cut[0]])
        if height * image.width <= width * image.height:
            covering = [max(height, int(width * image.height / image.width)), width]
        else:
            covering = [height, max(width, int(height * image.width / image.height))]
        return v2.functional.resize(image, covering, interpolation=self.interpolation)


class PixelJitter(nn.Module):
    """Add a random number to each colour channel of a (C, H, W) uint8 image, and clip to 0..255.

    Args:
        levels: The number is uniform in ± this many grey levels.

    Source: the "pixel jitter -20 ~ 20" of the authors' released training setup.
    Differs: that setup doesn't say whether it draws per pixel or per channel; here it is per channel.
    """

    def __init__(self, levels: float) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, image: Tensor) -> Tensor:
        """(C, H, W) uint8 -> (C, H, W) uint8."""
        shift = torch.empty(image.shape[0], 1, 1).uniform_(-self.levels, self.levels)
        return (image + shift).round_().clamp_(0, 255).to(torch.uint8)


def _interpolation(preprocessing: Preprocessing) -> InterpolationMode:
    return INTERPOLATIONS[preprocessing.interpolation]


def _whole(preprocessing: Preprocessing, _: Augmentation | None = None) -> list[nn.Module]:
    height, width = (round(edge / preprocessing.crop_fraction) for edge in preprocessing.size)
    return [Cover((height, width), _interpolation(preprocessing)), v2.CenterCrop(preprocessing.size)]


def _resized(preprocessing: Preprocessing, a: Augmentation) -> list[nn.Module]:
    return [v2.RandomResizedCrop(preprocessing.size, a.scale, a.ratio, _interpolation(preprocessing))]


def _padded(preprocessing: Preprocessing, a: Augmentation) -> list[nn.Module]:
    size = preprocessing.size
    return [Cover(size, _interpolation(preprocessing)), v2.RandomCrop(size, padding=a.pad)]


CROPS: dict[str, Callable[[Preprocessing, Augmentation], list[nn.Module]]] = {
    "resized": _resized,
    "pad": _padded,
    "none": _whole,
}


def to_tensor(preprocessing: Preprocessing) -> list[nn.Module]:
    """Scale so that white becomes 1, or stays 255; then normalise in that unit."""
    stays = preprocessing.value_range == 255
    white = 1.0 if stays else preprocessing.value_range
    mean, std = ([value / white for value in values] for values in (preprocessing.mean, preprocessing.std))
    reverse = [v2.Lambda(_reversed_channels)] if preprocessing.channel_order == "BGR" else []
    # ConvertImageDtype divides by 255, as torchvision's presets do; v2's ToDtype multiplies by 1/255: the last bit
    scaled = v2.ToDtype(torch.float32) if stays else ConvertImageDtype(torch.float32)
    return [v2.PILToTensor(), scaled, *reverse, v2.Normalize(mean, std)]


def _reversed_channels(image: Tensor) -> Tensor:
    return image.flip(0)
