"""The gate of Squeeze-and-Excitation, computed before the convolution that it rescales."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from senet.nn._dims import over_space
from senet.nn.block import SqueezeExcite
from senet.nn.optimized import Optimized
from senet.nn.precision import in_float64
from senet.nn.squeeze import mean

__all__ = ["PrecomputedGate"]


@final
class PrecomputedGate(Optimized):
    """Compute the gate of a block after a 1x1 convolution from that convolution's input, for inference.

    The squeeze is linear and commutes with the convolution, mean(W h + b) = W mean(h) + b. So the first linear layer,
    merged with W and b, reads the mean of h.

    Args:
        se: The attention layer. Its squeeze is the mean.
        weight: (C, I, 1, 1), the weight of the convolution before it.
        bias: (C,), the bias of that convolution.

    Shape:
        (N, I, H, W) -> the gate, (N, C, 1, 1).

    Source: Hu et al. 2018, eqs. 2-3.
    """

    def __init__(self, se: SqueezeExcite, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.channels = se.channels
        self.activate = se.activate
        self.fc1 = _merged(se.fc1, weight, bias)
        self.fc2 = se.fc2

    def forward(self, h: Tensor) -> Tensor:
        """Return the gate: (N, I, H, W) -> (N, C, 1, 1)."""
        return over_space(self.activate(self.fc2(torch.relu(self.fc1(mean(h))))), h)

    def extra_repr(self) -> str:
        """Return the options that `print(layer)` shows."""
        return f"channels={self.channels}"


def _merged(fc: nn.Linear, weight: Tensor, bias: Tensor) -> nn.Linear:
    """Merge a 1x1 convolution and the linear layer after it, fc(W x + b), in float64."""
    like = fc.weight
    both = nn.Linear(weight.shape[1], fc.out_features, device=like.device, dtype=like.dtype)
    first = in_float64(like)
    offset = first @ in_float64(bias)
    if fc.bias is not None:
        offset = offset + in_float64(fc.bias)
    both.weight = nn.Parameter((first @ in_float64(weight).flatten(1)).to(like), requires_grad=False)
    both.bias = nn.Parameter(offset.to(like), requires_grad=False)
    return both
