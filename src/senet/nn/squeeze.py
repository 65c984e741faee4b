"""Squeeze: a feature map summarised to one number a channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

__all__ = ["SQUEEZES", "Squeeze"]

Squeeze = Callable[[Tensor], Tensor]


def average(x: Tensor, dim: tuple[int, ...], *, keepdim: bool = False) -> Tensor:
    """Average over `dim`; the sum is held in float32 at least, the result has the type of `x`.

    In half precision the sum over a 256x256 map overflows long before its mean does. PyTorch's own kernels
    happen to sum in float32; said here, it also holds for whatever the graph is exported to.
    """
    return x.mean(dim, keepdim, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)


def mean(x: Tensor) -> Tensor:
    """Average over space, (N, C, *spatial) -> (N, C).

    Source: Hu et al. 2018, eq. 2.
    """
    return average(x, _spatial(x))


def maximum(x: Tensor) -> Tensor:
    """Largest value over space, (N, C, *spatial) -> (N, C).

    `amax` shares the gradient among ties, so the backward pass is deterministic.

    Source: Hu et al. 2018, Table 11.
    """
    return x.amax(_spatial(x))


def mean_and_max(x: Tensor) -> Tensor:
    """Midpoint of average and largest value, (N, C, *spatial) -> (N, C).

    Source: timm's `SEModule(add_maxpool=True)`; not in the paper.
    """
    # Each half is halved before the sum, which therefore can't overflow.
    return 0.5 * mean(x) + 0.5 * maximum(x)


def none(x: Tensor) -> Tensor:
    """Return the map unchanged, so that the excitation acts at each position by itself.

    Source: Hu et al. 2018, section 7.1 and Table 16 ("NoSqueeze").
    """
    return x


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


SQUEEZES: Final[Mapping[str, Squeeze]] = {
    "mean": mean,
    "max": maximum,
    "mean+max": mean_and_max,
    "none": none,
}
