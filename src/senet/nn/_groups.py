"""Groups of channels that a layer treats as separate feature maps."""

from __future__ import annotations

from torch import Tensor

from senet.errors import SenetError

__all__ = ["check_groups", "merge_groups", "split_groups"]


def check_groups(channels: int, groups: int, per_group: int = 1) -> None:
    """Raise a `SenetError` unless there are `groups` groups of a multiple of `per_group` channels."""
    if groups < 1 or channels % (groups * per_group):
        largest = max((g for g in range(1, channels + 1) if channels % (g * per_group) == 0), default=0)
        hint = f"use a divisor of {largest}" if largest else f"the channels must be a multiple of {per_group}"
        raise SenetError(f"groups={groups} doesn't divide channels={channels}; {hint}")


def split_groups(x: Tensor, groups: int) -> Tensor:
    """(N, C, *spatial) -> (N * groups, C / groups, *spatial)."""
    return x.unflatten(1, (groups, x.shape[1] // groups)).flatten(0, 1)


def merge_groups(x: Tensor, groups: int) -> Tensor:
    """(N * groups, C / groups, *spatial) -> (N, C, *spatial)."""
    return x.unflatten(0, (x.shape[0] // groups, groups)).flatten(1, 2)
