"""Reading mask files into class numbers, exactly as stored."""

from __future__ import annotations

import os
from typing import Final

import numpy as np
from PIL import Image

from senet.data.formats import open_file
from senet.data.images import CorruptImage, as_corrupt_image, opened, stored_form
from senet.data.orientation import upright

__all__ = ["IGNORE_INDEX", "MOST_CLASSES", "read_mask"]

IGNORE_INDEX: Final = 255
"""Value of pixels without a class. They are neither trained on nor counted."""

MOST_CLASSES: Final = IGNORE_INDEX
"""Largest number of classes: 0 to 254, since a mask in memory has 8 bits."""

FORMATS: Final = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Formats that keep numbers unchanged."""

MODES: Final = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")

SCALED: Final = {"L;2": 85, "L;4": 17}
"""Grey of 2 and 4 bits, and Pillow's factor for it."""


def read_mask(path: str | os.PathLike[str], classes: int, *, instances: bool = False) -> np.ndarray:
    """Read a mask as (H, W) uint8 class numbers, 255 without a class, turned upright like its image.

    Args:
        path: The file: one channel of 1 to 32 bits, or a palette, whose indices count.
        classes: Number of classes, at most `MOST_CLASSES`.
        instances: Any number above 0 becomes the second class.

    Raises:
        CorruptImage: The file is unreadable, has several channels or frames, has a format that changes numbers, or
            holds numbers outside the classes.
        OSError: The disk or the network failed.
        MemoryError: Memory ran out.
    """
    with as_corrupt_image(path), open_file(path) as file:
        found = _numbers(opened(file))
        if found.min() < 0:
            raise ValueError(f"class number {found.min()}; class numbers start at 0")
    if instances:
        return (found > 0).astype(np.uint8)
    wrong = np.unique(found[(found >= classes) & (found != IGNORE_INDEX)])
    if len(wrong):
        more = "; --instances if these number single objects" if len(wrong) > 1 else ""
        raise CorruptImage(path, f"class number {wrong[0]}, but there are {classes} classes (0..{classes - 1}){more}")
    return found.astype(np.uint8)


def _numbers(image: Image.Image) -> np.ndarray:
    """Read (H, W) int64 from an open file."""
    if image.format not in FORMATS or image.info.get("compression") in ("jpeg", "webp"):
        raise ValueError(f"{image.format} changes numbers; save masks as PNG")
    if image.mode not in MODES:
        raise ValueError(f"a mask has one channel of class numbers; this is {image.mode}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ValueError(f"a mask is one image; this file holds {frames}")
    form = stored_form(image)
    if image.mode != "1" and "I" in form.partition(";")[2]:
        raise ValueError("its numbers count down from white (photometric WhiteIsZero); save masks as PNG")
    _refuse_scaled(image)
    return np.asarray(upright(image)).astype(np.int64) // SCALED.get(form[:3], 1)


def _refuse_scaled(image: Image.Image) -> None:
    """Refuse a PGM with another white: Pillow scales its numbers."""
    if image.format == "PPM" and image.tile and isinstance(image.tile[0][3], tuple):  # type: ignore[attr-defined]
        white = image.tile[0][3][1]  # type: ignore[attr-defined]
        if white not in (255, 65_535):
            raise ValueError(f"its numbers are scaled, white being {white}; save masks as PNG")
