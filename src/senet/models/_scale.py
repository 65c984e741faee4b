"""Check and scale the depths and widths of network families."""

from __future__ import annotations

from math import inf

from senet.errors import SenetError

__all__ = ["check_depths", "scaled"]


def check_depths(depths: tuple[int, ...]) -> None:
    """Raise a `SenetError` unless there is a stage and every stage has a block."""
    if min(depths, default=0) < 1:
        raise SenetError(f"depths={depths} must give each stage at least one block")


def scaled(channels: int, width: float) -> int:
    """Multiply a channel count by `width` and round down.

    Raises:
        SenetError: The width is not positive and finite, or no channel is left.
    """
    if not 0 < width < inf:
        raise SenetError(f"width={width} must be a positive number")
    if channels * width < 1:
        raise SenetError(f"width={width} leaves no channel of {channels}")
    return int(channels * width)
