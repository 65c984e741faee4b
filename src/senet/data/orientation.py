"""Orientation of images, the same for training, evaluation, sizes and masks."""

from __future__ import annotations

from typing import Final

from PIL import Image

from senet.data.image_errors import is_machine_fault

__all__ = ["orientation", "turned_size", "upright"]

TAG: Final = 0x0112
"""Orientation tag of EXIF and TIFF."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation to the transposition that makes the image upright."""


def orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8, from EXIF or else from XMP. 1 is upright.

    Damaged metadata and undefined numbers count as upright, since the pixels are fine. A PNG is read as a whole, since
    its metadata may follow the pixels.
    """
    try:
        number = image.getexif().get(TAG, 1)
        return number if number in TURNS else 1
    except Exception as error:
        if is_machine_fault(error):
            raise
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Decode an image and turn it upright. (Pillow does so itself for a TIFF, and then reports 1.)"""
    image.load()
    turn = TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def turned_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of the result of `upright`, from the header."""
    by_pillow = TAG in getattr(image, "tag_v2", ())  # a TIFF whose own tag is set: the size is upright already
    lies = orientation(image) >= 5 and not by_pillow
    return image.size[::-1] if lies else image.size
