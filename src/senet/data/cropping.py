"""Random crops of stored images, faster than Pillow and torchvision.

libjpeg-turbo decodes a JPEG straight into a tensor, with the same bytes as Pillow. PyTorch's vectorised kernel resizes
a crop in 8 bits. It differs from Pillow's result by at most one grey level (two for bicubic). A photograph much larger
than needed is decoded at a half, a quarter or an eighth of its size.
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
"""A photograph is decoded smaller if the crop would still be this many times larger than needed."""

TENSOR_MODES = {InterpolationMode.BILINEAR: "bilinear", InterpolationMode.BICUBIC: "bicubic"}
PILLOW_MODES = {
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class PartialCrop:
    """`RandomResizedCrop` with the same random draws, for images that needn't be decoded yet.

    Attributes:
        size: Height and width of the result, in pixels.
        scale: Area of the crop, as a fraction of the image's.
        ratio: Width over height of the crop.
        interpolation: One of `TENSOR_MODES`.
        white_level: White of 16-bit grey images.
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
            CorruptImage: The file can't be decoded.
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
        """Draw top, left, height and width. The header is enough for it."""
        return RandomResizedCrop.get_params(image, list(self.scale), list(self.ratio))

    def _shrink(self, part: tuple[int, int, int, int]) -> int:
        _, _, height, width = part
        room = min(height / self.size[0], width / self.size[1]) / GAP
        return next((factor for factor in (8, 4, 2) if room >= factor), 1)

    def _resized(self, whole: Tensor, part: tuple[int, int, int, int]) -> Tensor:
        top, left, height, width = part
        cut = whole[None, :, top : top + height, left : left + width]
        cut = cut.contiguous(memory_format=torch.channels_last)  # as decoded, for the kernel of interleaved colours
        mode = TENSOR_MODES[self.interpolation]
        return F.interpolate(cut, self.size, mode=mode, align_corners=False, antialias=True)[0]

    def _resized_from_smaller(
        self, name: str, image: Image.Image, part: tuple[int, int, int, int], factor: int
    ) -> Tensor:
        """Decode a JPEG `factor` times smaller. The crop's edges then lie between pixels, where Pillow can cut."""
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
    """`RandomCrop` out of a border, with the same random draws and the same pixels.

    Attributes:
        size: Height and width of the result, in pixels.
        pad: Width of the border, in pixels.
        fill: Colour of the border, in grey levels.
        cover: Resizes an image of another size to cover `size`.
        white_level: White of 16-bit grey images.
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
            CorruptImage: The file can't be decoded.
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
        """(3, H, W), in the memory layout of `decode_jpeg`."""
        return torch.tensor(self.fill).to(torch.uint8).expand(*self.size, -1).contiguous().permute(2, 0, 1)

    def _start(self, side: int, wanted: int) -> int:
        """Draw the result's first pixel in the image. It is negative within the border."""
        room = side + 2 * self.pad - wanted
        return (int(torch.randint(0, room + 1, size=())) if room else 0) - self.pad


def _simple_jpeg(stored: Stored) -> Image.Image | None:
    """Read the header of a file that libjpeg-turbo can decode alone, or None for any other file."""
    with as_corrupt_image(stored.name):
        image = opened(BytesIO(stored.content))
        return image if _is_simple_jpeg(image) else None


def _is_simple_jpeg(image: Image.Image) -> bool:
    """Whether libjpeg-turbo alone gives the same pixels as Pillow with all steps of `load_stored`."""
    return image.format == "JPEG" and image.mode in ("RGB", "L") and orientation(image) == 1


def _whole_jpeg(stored: Stored) -> Tensor:
    try:
        return decode_jpeg(torch.frombuffer(stored.content, dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError:  # Pillow reads it or names the error
        return _pixels(_rgb(load_stored(stored)))


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image) -> Tensor:
    """(C, H, W) uint8, a view of (H, W, C)."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
