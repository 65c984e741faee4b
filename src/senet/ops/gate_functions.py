"""The gate functions of the fused operators, in the order of the kernel's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "GATE_FUNCTIONS",
    "GATE_NUMBERS",
    "GATE_SLOPES",
    "hard_sigmoid_centred",
    "relu_centred",
    "sigmoid_centred",
    "tanh_centred",
]


# Named functions instead of lambdas: a layer stores one of them and must pickle.
def sigmoid_centred(z: Tensor) -> Tensor:
    """Return 2 * sigmoid(z), in (0, 2)."""
    return 2 * torch.sigmoid(z)


def hard_sigmoid_centred(z: Tensor) -> Tensor:
    """Return 2 * hard_sigmoid(z), in [0, 2]."""
    return 2 * F.hardsigmoid(z)


def tanh_centred(z: Tensor) -> Tensor:
    """Return 1 + tanh(z), in (0, 2)."""
    return 1 + torch.tanh(z)


def relu_centred(z: Tensor) -> Tensor:
    """Return relu(1 + z), 0 or more."""
    return torch.relu(1 + z)


def _sigmoid_slope(z: Tensor) -> Tensor:
    return torch.sigmoid(z) * torch.sigmoid(-z)


def _hard_sigmoid_slope(z: Tensor) -> Tensor:
    return ((z > -3) & (z < 3)).to(z.dtype) / 6


def _tanh_slope(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z).square()


# `enum gate` of excite.h.
GATE_FUNCTIONS: Final[tuple[Callable[[Tensor], Tensor], ...]] = (
    torch.sigmoid,
    sigmoid_centred,
    F.hardsigmoid,
    hard_sigmoid_centred,
    torch.tanh,
    tanh_centred,
    torch.relu,
    relu_centred,
)
GATE_NUMBERS: Final = {function: number for number, function in enumerate(GATE_FUNCTIONS)}

GATE_SLOPES: Final[tuple[Callable[[Tensor], Tensor], ...]] = (
    _sigmoid_slope,
    lambda z: 2 * _sigmoid_slope(z),
    _hard_sigmoid_slope,
    lambda z: 2 * _hard_sigmoid_slope(z),
    _tanh_slope,
    _tanh_slope,
    lambda z: (z > 0).to(z.dtype),
    lambda z: (z > -1).to(z.dtype),
)
"""The derivative of each gate at its argument."""
