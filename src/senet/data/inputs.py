"""Images of sources and files through a transform, which may decode them itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

from senet.data.bands import as_bands, read_bands
from senet.data.images import decode_image, load_image, read_stored, to_8_bits
from senet.data.sources import Source
from senet.pages.stretching import stretched
from senet.preprocessing import Preprocessing

__all__ = ["file_preview", "preview", "transformed", "transformed_file"]


def transformed(source: Source, index: int, transform: Callable[[Any], Tensor]) -> Tensor:
    """Return one image of a source through a transform with or without a method `decoded`.

    Raises:
        CorruptImage: The image can't be decoded.
    """
    decoded = getattr(transform, "decoded", None)
    stored = source.stored(index) if decoded is not None else None
    if decoded is None or stored is None:
        return transform(source[index][0])
    result: Tensor = decoded(stored)
    return result


def transformed_file(path: str | os.PathLike[str], transform: Callable[[Any], Tensor]) -> Tensor:
    """Return one image file through a transform, see `transformed`."""
    decoded = getattr(transform, "decoded", None)
    return transform(decode_image(path)) if decoded is None else decoded(read_stored(path))


def preview(source: Source, index: int, preprocessing: Preprocessing) -> Image.Image:
    """Return one image of a source in 8 bits, to look at.

    Images of any channels show their first three bands, or the first alone where there are fewer. Each band is
    stretched between two percentiles.
    """
    if not preprocessing.reads_bands:
        return to_8_bits(source[index][0], preprocessing.white_level)
    stored, channels = source.stored(index), preprocessing.in_channels
    return stretched(as_bands(source[index][0], channels) if stored is None else read_bands(stored, channels))


def file_preview(path: str | os.PathLike[str], preprocessing: Preprocessing) -> Image.Image:
    """Return an image file in 8 bits, see `preview`."""
    if not preprocessing.reads_bands:
        return load_image(path, white_level=preprocessing.white_level)
    return stretched(read_bands(read_stored(path), preprocessing.in_channels))
