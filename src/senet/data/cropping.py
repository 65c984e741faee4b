"""A random part of a stored image, resized: the fast way to what Pillow gives.

A JPEG is decoded by libjpeg-turbo straight into a tensor, to the same bytes as Pillow's, and the part is resized in
8 bits by PyTorch's vectorised kernel, which differs from Pillow's by at most one grey level (two for
bicubic). Of a photograph that is
much larger than wanted, libjpeg gives every second, fourth or eighth pixel's worth in the first place.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from senet.data.images import Stored, load_stored, opened, told_as_broken, turned

__all__ = ["PartialCrop"]

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
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, H, W) uint8."""
        return self._resized(_pixels(image), self._part(image))

    def decoded(self, stored: Stored) -> Tensor:
        """A file's bytes -> (3, H, W) uint8.

        Raises:
            BrokenImage: It can't be decoded.
        """
        with told_as_broken(stored.name):
            image = opened(BytesIO(stored.content))
            if image.format != "JPEG" or image.mode not in ("RGB", "L") or turned(image):
                return self(_rgb(load_stored(stored)))
            part = self._part(image)
            shrink = self._shrink(part)
            if shrink > 1:
                return self._resized_from_smaller(image, part, shrink)
            try:
                whole = decode_jpeg(torch.frombuffer(stored.content, dtype=torch.uint8), mode=ImageReadMode.RGB)
            except RuntimeError:  # what is wrong, or nothing for Pillow, it says in its own words
                whole = _pixels(_rgb(load_stored(stored)))
            return self._resized(whole, part)

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

    def _resized_from_smaller(self, image: Image.Image, part: tuple[int, int, int, int], factor: int) -> Tensor:
        """Decode a JPEG `factor` times smaller; the part's edges then lie between pixels, where Pillow can cut."""
        width, height = image.size
        image.draft("RGB", (width // factor, height // factor))
        image.load()
        top, left, rows, columns = part
        down, right = image.height / height, image.width / width
        box = (left * right, top * down, (left + columns) * right, (top + rows) * down)
        return _pixels(_rgb(image).resize(self.size[::-1], PILLOW_MODES[self.interpolation], box))


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image) -> Tensor:
    """(C, H, W) uint8, a view of (H, W, C)."""
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
