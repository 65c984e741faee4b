"""How an image is turned: one answer for training, evaluation, sizes and masks."""

from __future__ import annotations

from typing import Final

from PIL import Image

from senet.data.image_errors import is_machine_fault

__all__ = ["orientation", "turned_size", "upright"]

TAG: Final = 0x0112
"""EXIF's and TIFF's."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation to what makes it upright."""


def orientation(image: Image.Image) -> int:
    """EXIF's number, 1 to 8, from EXIF or, where that has none, from XMP; 1 is upright.

    Damaged metadata, or a number that isn't defined, counts as upright: the pixels are fine. Of a PNG the whole file
    is read, since its metadata may follow the pixels.
    """
    try:
        number = image.getexif().get(TAG, 1)
        return number if number in TURNS else 1
    except Exception as error:
        if is_machine_fault(error):
            raise
        return 1


def upright(image: Image.Image) -> Image.Image:
    """An image, decoded and turned upright. (Of a TIFF, Pillow does it in decoding, and then says 1.)"""
    image.load()
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of what `upright` gives, of an image of which the header is read."""
    by_pillow = TAG in getattr(image, "tag_v2", ())  # a TIFF whose own tag is set: the size is upright already
    lies = orientation(image) >= 5 and not by_pillow
    return image.size[::-1] if lies else image.size
