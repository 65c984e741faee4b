"""The squeeze: summarize a feature map by one number per channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, Final

import torch
from torch import Tensor

from senet.ops.arguments import eager, needs_gradient

__all__ = ["SQUEEZES", "Squeeze"]

Squeeze = Callable[[Tensor], Tensor]

MIN_ELEMENTS: Final = 1 << 15
"""Smallest feature map with a derivative of its own. For smaller ones its fixed cost is larger than what it saves.

Measured: benchmarks/squeeze_derivative.md.
"""


TINY: Final = 1e-12
"""Added below a square root, whose slope at 0 is infinite."""


def average(x: Tensor, dim: tuple[int, ...], *, keepdim: bool = False) -> Tensor:
    """Average over `dim`. The sum is accumulated in float32 or wider, and the result has the type of `x`.

    In half precision the sum over 256x256 positions overflows, although the mean would not. PyTorch's kernels already
    accumulate in float32. The explicit type also holds in exported graphs.
    """
    # Compilers, exporters and function transforms differentiate the plain mean themselves.
    if eager(x) and needs_gradient((x,)) and x.numel() >= MIN_ELEMENTS:
        result: Tensor = _Average.apply(x, dim, keepdim)
        return result
    return _average(x, dim, keepdim)


def _average(x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
    return x.mean(dim, keepdim, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)


class _Average(torch.autograd.Function):
    """The mean, with a gradient that is a view of one number per average.

    The derivative of `Tensor.mean` is a contiguous feature map in the type of the sum. In 16 bits that takes four
    passes over memory: float32 written and read, and 16 bits written and read. The view has no memory format of its
    own, so a sum with another gradient keeps the format of that one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: tuple[int, ...], keepdim: bool) -> Tensor:
        ctx.shape, ctx.dim = x.shape, dim
        ctx.kept = tuple(1 if d in dim else size for d, size in enumerate(x.shape))
        return _average(x, dim, keepdim)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        count = prod(ctx.shape[d] for d in ctx.dim)
        return (dy / count).reshape(ctx.kept).expand(ctx.shape), None, None


def mean(x: Tensor) -> Tensor:
    """Return the spatial mean, (N, C, *spatial) -> (N, C).

    Source: Hu et al. 2018, eq. 2.
    """
    return average(x, _spatial(x))


def maximum(x: Tensor) -> Tensor:
    """Return the spatial maximum, (N, C, *spatial) -> (N, C).

    `amax` shares the gradient among ties, so the backward pass is deterministic.

    Source: Hu et al. 2018, Table 11.
    """
    return x.amax(_spatial(x))


def mean_and_max(x: Tensor) -> Tensor:
    """Return the midpoint of spatial mean and maximum, (N, C, *spatial) -> (N, C).

    Source: timm's `SEModule(add_maxpool=True)`; not in the paper.
    """
    # Each term is halved before the sum, so the sum can't overflow.
    return 0.5 * mean(x) + 0.5 * maximum(x)


def deviation(x: Tensor) -> Tensor:
    """Return the spatial standard deviation, (N, C, *spatial) -> (N, C).

    Source: Lee et al. 2019 (SRM, arXiv 1903.10829), eq. 2. The variance is over all positions, without Bessel's
    correction.
    """
    return (wide(x).var(_spatial(x), correction=0) + TINY).sqrt().to(x.dtype)


def root_mean_square(x: Tensor) -> Tensor:
    """Return the root of the spatial second moment, (N, C, *spatial) -> (N, C).

    The root has the units of `x`, so that it can't overflow in half precision.
    """
    return (wide(x).square().mean(_spatial(x)) + TINY).sqrt().to(x.dtype)


def wide(x: Tensor) -> Tensor:
    """Return `x` in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def none(x: Tensor) -> Tensor:
    """Return the feature map unchanged. The excitation then acts at each position separately.

    Source: Hu et al. 2018, section 7.1 and Table 16 ("NoSqueeze").
    """
    return x


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


SQUEEZES: Final[Mapping[str, Squeeze]] = {
    "mean": mean,
    "max": maximum,
    "mean+max": mean_and_max,
    "std": deviation,
    "rms": root_mean_square,
    "none": none,
}
