"""Strips: a feature map averaged over all spatial axes but one, and factors along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from senet.nn.squeeze import average

__all__ = ["along", "product_along", "strips"]


def strips(x: Tensor) -> list[Tensor]:
    """Average over all spatial axes but one, for each of them: (N, C, H, W) -> [(N, C, H), (N, C, W)].

    Source: Hou et al. 2021 (coordinate attention), eqs. 4-5.
    """
    axes = range(2, x.ndim)
    return [average(x, tuple(a for a in axes if a != axis)) if x.ndim > 3 else x for axis in axes]


def along(strip: Tensor, axis: int, ndim: int) -> Tensor:
    """Make a strip broadcast along the other axes: (N, C, W) -> (N, C, 1, W) for axis 1 of 2."""
    shape = (*strip.shape[:2], *[1] * axis, strip.shape[2], *[1] * (ndim - axis - 1))
    return strip.reshape(shape)


def product_along(factors: Sequence[Tensor]) -> Tensor:
    """Multiply one strip of factors for each axis: [(N, C, H), (N, C, W)] -> (N, C, H, W)."""
    return reduce(torch.mul, [along(strip, axis, len(factors)) for axis, strip in enumerate(factors)])
