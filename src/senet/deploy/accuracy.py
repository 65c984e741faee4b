"""The limit for the loss of accuracy, as a number of images, since an accuracy on N images is a count."""

from __future__ import annotations

import math

from senet.errors import SenetError

__all__ = ["check_drop", "check_metric_drop"]


def check_drop(precision: str, before: float, after: float, images: int, max_drop: float) -> str:
    """Refuse a loss of accuracy that is too large. A limit above 0 allows at least one image.

    Args:
        precision: Precision of the file.
        before: Top-1 accuracy of the network in 0..1.
        after: Top-1 accuracy of the file in 0..1.
        images: Number of evaluated images.
        max_drop: Largest loss in percentage points. At 0 or less, the limit is exact.

    Returns:
        A remark about the limit, empty if there is none.

    Raises:
        SenetError: The loss exceeds the limit.
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
            f"{images:,} images), the limit is {limit}; the file is not kept"
        )
    return f"{rule}, so the limit was one image ({100 / images:.2f} points)" if coarse else ""


def check_metric_drop(precision: str, title: str, before: float, after: float, max_drop: float) -> None:
    """Refuse a loss of a detector's or segmenter's metric that is too large.

    Args:
        precision: Precision of the file.
        title: Name of the metric.
        before: Metric of the network in 0..1.
        after: Metric of the file in 0..1.
        max_drop: Largest loss in percentage points.

    Raises:
        SenetError: The loss exceeds the limit.
    """
    lost = (before - after) * 100
    if not lost <= max_drop:
        raise SenetError(
            f"{precision} loses {lost:.2f} points of {title} ({before:.2%} -> {after:.2%}), the limit is "
            f"{max_drop:g}; the file is not kept"
        )
