"""How much accuracy a file may lose: a number of images, since an accuracy on N images is a count of N."""

from __future__ import annotations

import math

from senet.errors import SenetError

__all__ = ["check_drop"]


def check_drop(precision: str, before: float, after: float, images: int, max_drop: float) -> str:
    """Refuse a loss of accuracy that is too large; no limit above 0 is finer than one image.

    Args:
        precision: Of the file.
        before: The network's top-1 accuracy, in 0..1.
        after: The file's.
        images: That both were measured on.
        max_drop: Percentage points that may be lost. At 0 or less it is taken at its word.

    Returns:
        What to know of the limit, empty if nothing.

    Raises:
        SenetError: More is lost.
    """
    lost = round(before * images) - round(after * images)
    allowed = math.floor(max_drop * images / 100 + 1e-9)
    coarse = max_drop > 0 and allowed < 1
    if coarse:
        allowed = 1
    rule = f"{max_drop:g} points are less than one of {images:,} images" if coarse else ""
    if lost > allowed:
        limit = f"{max_drop:g}" + (f", here one image: {rule}" if coarse else "")
        raise SenetError(
            f"{precision} loses {(before - after) * 100:.2f} points of accuracy ({before:.2%} -> {after:.2%} on "
            f"{images:,} images), allowed are {limit}; the file is not kept"
        )
    return f"{rule}, so the limit was one image ({100 / images:.2f} points)" if coarse else ""
