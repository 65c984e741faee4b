"""Transforms of images with any number of channels and any bit depth, on float32 tensors throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, RandomResizedCrop, v2

from senet.data.augmentation import Augmentation
from senet.data.bands import as_bands, bits_of, read_bands
from senet.data.cutout import Cutout
from senet.data.image_errors import Unsuitable, as_corrupt_image
from senet.data.images import Stored
from senet.data.policy import NONE
from senet.preprocessing import FLOAT_DEPTH, Preprocessing

__all__ = ["COLOUR_CHANGES", "BandTransform", "left_out_of_bands", "scaled", "train_band_transform"]

COLOUR_CHANGES: Final = ("color_jitter", "pixel_jitter")
"""Augmentations of 8-bit RGB, which other channels don't have."""

Part = tuple[int, int, int, int]
"""Top, left, height and width of a crop."""


class BandTransform:
    """Image -> (C, H, W) float32, normalised. No value passes through 8 bits, and an empty corner has the mean's value.

    Args:
        preprocessing: Of the network.
        steps: Steps of the normalised tensor.
        part: Draws a region of an image of a given height and width. Only this region is read.

    Raises:
        SenetError: On a call, a `UnsuitableImage`: the image has other channels or another bit depth.

    Example:
        >>> import numpy as np
        >>> from senet.data import eval_transform
        >>> from senet.preprocessing import Preprocessing
        >>> images = Preprocessing(size=(2, 2), crop_fraction=1.0, mean=(0, 0), std=(1, 1), channel_order="other",
        ...                        bit_depth=16)
        >>> eval_transform(images)(np.full((2, 2, 2), 65535, np.uint16)).unique()
        tensor([1.])
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        steps: Sequence[nn.Module],
        part: Callable[[int, int], Part] | None = None,
    ) -> None:
        self.preprocessing, self.steps, self.part = preprocessing, steps, part
        self.mean, self.std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))

    def __call__(self, image: Image.Image | np.ndarray) -> Tensor:
        """Pillow image, or array (H, W), (H, W, C) or (C, H, W) -> (C, H, W)."""
        return self._changed(as_bands(image, self.preprocessing.in_channels), "the image")

    def decoded(self, stored: Stored) -> Tensor:
        """A file's bytes -> (C, H, W).

        Raises:
            CorruptImage: The file can't be decoded.
            UnsuitableImage: It has other channels or another bit depth.
        """
        return self._changed(read_bands(stored, self.preprocessing.in_channels), stored.name)

    def _changed(self, bands: np.ndarray, name: str) -> Tensor:
        if self.part is not None:
            top, left, height, width = self.part(*bands.shape[1:])
            bands = bands[:, top : top + height, left : left + width]
        with as_corrupt_image(name):
            image = scaled(bands, self.preprocessing.bit_depth)
        if self.preprocessing.value_range != 1:
            image.mul_(self.preprocessing.value_range)
        image = image.flip(0) if self.preprocessing.channel_order == "BGR" else image
        image.sub_(self.mean).div_(self.std)
        for step in self.steps:
            image = step(image)
        return image


def scaled(bands: np.ndarray, bit_depth: int) -> Tensor:
    """Return exact values as float32 with white at 1, or unchanged for floating point.

    Raises:
        Unsuitable: The values have more bits, or aren't finite.
    """
    image = torch.from_numpy(np.array(bands, dtype=np.float32))
    white = white_of(bands, bit_depth)
    if bit_depth == FLOAT_DEPTH and not torch.isfinite(image).all():
        raise Unsuitable("NaN or infinite pixels; replace them")
    return image if white == 1 else image.div_(white)


def white_of(bands: np.ndarray, bit_depth: int) -> int:
    """Return the value that becomes 1.

    Raises:
        Unsuitable: The values have more bits than the bit depth.
    """
    bits = bits_of(bands)
    if bit_depth == FLOAT_DEPTH:
        return 1
    if bits == FLOAT_DEPTH:
        raise Unsuitable(f"{bands.dtype} values, expected {bit_depth} bits; --bit-depth float takes any values")
    if bits > bit_depth <= 8:
        raise Unsuitable(f"{bits}-bit values, expected 8 bits; --bit-depth 16 keeps all (12 for values up to 4,095)")
    return int(2 ** min(bits, bit_depth) - 1)


def left_out_of_bands(augmentation: Augmentation) -> list[str]:
    """List the chosen augmentations that images of any channels don't have."""
    policy = [] if augmentation.augment == NONE else ["augment"]
    return policy + [name for name in COLOUR_CHANGES if getattr(augmentation, name)]


def train_band_transform(
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    interpolation: InterpolationMode,
    whole: Sequence[nn.Module],
    cover: nn.Module,
) -> BandTransform:
    """Make the training transform. Every draw comes from torch's global generator. Changes of colour are left out.

    Args:
        preprocessing: Of the network.
        augmentation: Random changes.
        interpolation: Interpolation of pixels.
        whole: Steps of the evaluation.
        cover: Resizes an image to cover the size.
    """
    a, size = augmentation, preprocessing.size
    crops: dict[str, Sequence[nn.Module]] = {
        "random-resized": [v2.Resize(size, interpolation)],
        "pad": [cover, v2.RandomCrop(size, padding=a.pad)],
        "none": whole,
    }
    changes: list[tuple[float, nn.Module]] = [
        (a.hflip, v2.RandomHorizontalFlip(a.hflip)),
        (a.vflip, v2.RandomVerticalFlip(a.vflip)),
        (
            a.rotation or a.translate,
            v2.RandomAffine(a.rotation, (a.translate, a.translate), interpolation=InterpolationMode.BILINEAR),
        ),
        (a.random_erasing, _erasing(preprocessing, a)),
        (a.cutout, Cutout(a.cutout)),
    ]
    part = partial(_random_part, scale=a.scale, ratio=a.ratio) if a.crop == "random-resized" else None
    return BandTransform(preprocessing, [*crops[a.crop], *(step for strength, step in changes if strength)], part)


def _erasing(preprocessing: Preprocessing, a: Augmentation) -> nn.Module:
    """Make random erasing of normalised images, where the mean is 0 and the deviation 1."""
    black = [-mean / std for mean, std in zip(preprocessing.mean, preprocessing.std, strict=True)]
    value = {"mean": 0.0, "black": black, "noise": "random"}[a.erasing_value]
    return v2.RandomErasing(a.random_erasing, a.erasing_scale, a.erasing_ratio, value=value)


def _random_part(height: int, width: int, *, scale: Sequence[float], ratio: Sequence[float]) -> Part:
    return RandomResizedCrop.get_params(torch.empty(1).expand(1, height, width), list(scale), list(ratio))
