"""The activations that the fused operators compute, in the order in which the kernel numbers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ACTIVATIONS", "ACTIVATION_FUNCTIONS", "ACTIVATION_SLOPES"]

ACTIVATIONS: Final = ("identity", "relu", "relu6", "silu", "hard_swish", "gelu")
"""Names in the order of `enum activation` of activation.h."""


def _identity(v: Tensor) -> Tensor:
    return v


ACTIVATION_FUNCTIONS: Final[tuple[Callable[[Tensor], Tensor], ...]] = (
    _identity,
    torch.relu,
    F.relu6,
    F.silu,
    F.hardswish,
    F.gelu,
)


def _silu_slope(v: Tensor) -> Tensor:
    s = torch.sigmoid(v)
    return s * (1 + v * (1 - s))


def _hard_swish_slope(v: Tensor) -> Tensor:
    return torch.where(v < -3, 0.0, torch.where(v > 3, 1.0, v / 3 + 0.5))


def _gelu_slope(v: Tensor) -> Tensor:
    density = torch.exp(-v.square() / 2) / (2 * torch.pi) ** 0.5
    return 0.5 * (1 + torch.erf(v / 2**0.5)) + v * density


ACTIVATION_SLOPES: Final[tuple[Callable[[Tensor], Tensor], ...]] = (
    torch.ones_like,
    lambda v: (v > 0).to(v.dtype),
    lambda v: ((v > 0) & (v < 6)).to(v.dtype),
    _silu_slope,
    _hard_swish_slope,
    _gelu_slope,
)
"""The derivative of each activation at its argument."""
