"""The size to which torchvision's detectors resize an image, from integers and float32 alone.

torchvision computes `floor(edge * scale)` in float64. Where the exact product is a whole number, its rounding decides:
with a shorter edge of 800 pixels, an edge of 97 becomes 799. Runtimes round otherwise, and OpenVINO has no float64. A
size that differs by a pixel would change all boxes.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

__all__ = ["LONGEST_EDGE", "resized_size"]

LONGEST_EDGE = 8192
"""Longest edge in pixels for which the rounding is known. Longer ones are computed exactly."""

DIGITS = 53
"""Binary digits of a float64 number."""


def resized_size(size: Tensor, shorter: int, longer: int) -> Tensor:
    """Return the height and width of the resized image.

    Args:
        size: (2,) int64, height and width of the image. It may be symbolic in a trace.
        shorter: Length that the shorter edge gets, unless the longer edge would exceed its limit.
        longer: Limit of the longer edge.

    Returns:
        (2,) int64.
    """
    least, most = size.min(), size.max()
    by_shorter = shorter * most <= longer * least
    edge, base = (
        torch.where(by_shorter, torch.tensor(shorter), torch.tensor(longer)),
        torch.where(by_shorter, least, most),
    )
    error = torch.where(by_shorter, _error(shorter, least), _error(longer, most))
    product = size * edge
    floor = torch.div(product, base, rounding_mode="floor")
    # float64 numbers below 2 ** n differ by 2 ** (n - 53). A product is rounded up from half of this.
    powers = 2.0 ** torch.arange(-1, 18)
    half = torch.where(powers < floor[:, None], powers, 0.0).amax(1)
    rounded_down = (floor * base == product) & (size * error < -half)
    return floor - rounded_down.long()


def _error(edge: int, base: Tensor) -> Tensor:
    """Return the rounding error of the float64 quotient `edge / base`, times 2 ** 53, as float32."""
    known = torch.where(base > LONGEST_EDGE, 0, base)
    return _errors(edge)[known]


@cache
def _errors(edge: int) -> Tensor:
    found = [0.0] + [
        float((Fraction(edge / base) - Fraction(edge, base)) * 2**DIGITS) for base in range(1, LONGEST_EDGE + 1)
    ]
    return torch.tensor(found)
