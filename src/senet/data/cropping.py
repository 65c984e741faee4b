"""A random part of a stored image: the fast way to what Pillow and torchvision give.

A JPEG is decoded by libjpeg-turbo straight into a tensor, to the same bytes as Pillow's. A part that is resized is
so in 8 bits by PyTorch's vectorised kernel, which differs from Pillow's by at most one grey level (two for bicubic);
of a photograph that is much larger than wanted, libjpeg gives every second, fourth or eighth pixel's worth in the
first place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from senet.data.images import Stored, as_corrupt_image, load_stored, opened
from senet.data.orientation import orientation
from senet.preprocessing import DEEP_WHITE

__all__ = ["PaddedCrop", "PartialCrop"]

GAP = 2
"""A photograph is decoded smaller where the part would still be this many times larger than wanted."""

TENSOR_MODES = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
PILLOW_MODES = {
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class PartialCrop:
    """`RandomResizedCrop`, with the same draws for the same part, of images that needn't be decoded yet.

    Attributes:
        size: Height and width of the result, in pixels.
        scale: Area of the part, as a fraction of the image's.
        ratio: Width over height of the part.
        interpolation: How pixels are computed; one of `TENSOR_MODES`.
        white_level: What is white in 16-bit grey.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    white_level: int = DEEP_WHITE

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, H, W) uint8."""
        return self._resized(_pixels(image), self._part(image))

    def decoded(self, stored: Stored) -> Tensor:
        """A file's bytes -> (3, H, W) uint8.

        Raises:
            CorruptImage: It can't be decoded.
        """
        image = _simple_jpeg(stored)
        if image is None:
            return self(_rgb(load_stored(stored, white_level=self.white_level)))
        part = self._part(image)
        shrink = self._shrink(part)
        if shrink > 1:
            return self._resized_from_smaller(stored.name, image, part, shrink)
        return self._resized(_whole_jpeg(stored), part)

    def _part(self, image: Image.Image) -> tuple[int, int, int, int]:
        """Top, left, height and width; needs the header only."""
        return RandomResizedCrop.get_params(image, list(self.scale), list(self.ratio))

    def _shrink(self, part: tuple[int, int, int, int]) -> int:
        _, _, height, width = part
        room = min(height / self.size[0], width / self.size[1]) / GAP
        return next((factor for factor in (8, 4, 2) if room >= factor), 1)

    def _resized(self, whole: Tensor, part: tuple[int, int, int, int]) -> Tensor:
        top, left, height, width = part
        cut = whole[None, :, top : top + height, left : left + width]
        cut = cut.contiguous(memory_format=torch.channels_last)  # as decoded: the kernel for interleaved colours
        mode = TENSOR_MODES[self.interpolation]
        return F.interpolate(cut, self.size, mode=mode, align_corners=False, antialias=True)[0]

    def _resized_from_smaller(
        self, name: str, image: Image.Image, part: tuple[int, int, int, int], factor: int
    ) -> Tensor:
        """Decode a JPEG `factor` times smaller; the part's edges then lie between pixels, where Pillow can cut."""
        width, height = image.size
        with as_corrupt_image(name):
            image.draft("RGB", (width // factor, height // factor))
            image.load()
        top, left, rows, columns = part
        down, right = image.height / height, image.width / width
        box = (left * right, top * down, (left + columns) * right, (top + rows) * down)
        return _pixels(_rgb(image).resize(self.size[::-1], PILLOW_MODES[self.interpolation], box))


@dataclass(frozen=True)
class PaddedCrop:
    """`RandomCrop` out of a border, with the same draws for the same place and the same pixels.

    Attributes:
        size: Height and width of the result, in pixels.
        pad: Width of the border, in pixels.
        fill: Its colour, in grey levels.
        cover: What makes an image of another size cover that size.
        white_level: What is white in 16-bit grey.
    """

    size: tuple[int, int]
    pad: int
    fill: tuple[float, ...]
    cover: Callable[[Image.Image], Image.Image]
    white_level: int = DEEP_WHITE

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, H, W) uint8."""
        return self._cut(_pixels(self.cover(image)))

    def decoded(self, stored: Stored) -> Tensor:
        """A file's bytes -> (3, H, W) uint8.

        Raises:
            CorruptImage: It can't be decoded.
        """
        image = _simple_jpeg(stored)
        if image is not None and image.size == self.size[::-1]:
            return self._cut(_whole_jpeg(stored))
        return self(_rgb(load_stored(stored, white_level=self.white_level)))

    def _cut(self, image: Tensor) -> Tensor:
        height, width = self.size
        top, left = (self._start(side, wanted) for side, wanted in zip(image.shape[1:], self.size, strict=True))
        result = self._border.clone()
        seen = image[:, max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)]
        there = result[:, max(0, -top) :, max(0, -left) :][:, : seen.shape[1], : seen.shape[2]]
        there.copy_(seen)
        return result

    @cached_property
    def _border(self) -> Tensor:
        """(3, H, W), as `decode_jpeg` lays images out."""
        return torch.tensor(self.fill).to(torch.uint8).expand(*self.size, -1).contiguous().permute(2, 0, 1)

    def _start(self, side: int, wanted: int) -> int:
        """Where the result begins in the image; negative within the border."""
        room = side + 2 * self.pad - wanted
        return (int(torch.randint(0, room + 1, size=())) if room else 0) - self.pad


def _simple_jpeg(stored: Stored) -> Image.Image | None:
    """The header of a file for which libjpeg-turbo will do; None for any other."""
    with as_corrupt_image(stored.name):
        image = opened(BytesIO(stored.content))
        return image if _is_simple_jpeg(image) else None


def _is_simple_jpeg(image: Image.Image) -> bool:
    """Whether libjpeg-turbo alone gives what Pillow, and all that `load_stored` does after it, would give."""
    return image.format == "JPEG" and image.mode in ("RGB", "L") and orientation(image) == 1


def _whole_jpeg(stored: Stored) -> Tensor:
    try:
        return decode_jpeg(torch.frombuffer(stored.content, dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:  # what is wrong, or nothing for Pillow, it says in its own words
        return _pixels(_rgb(load_stored(stored)))


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image) -> Tensor:
    """(C, H, W) uint8, a view of (H, W, C)."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
