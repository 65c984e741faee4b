"""The two linear layers of a gate and their gradients on (N, C) numbers, by PyTorch's matrix products.

Autocast would compute them in half precision, so callers turn it off.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["layer_gradients", "linear"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, into: Tensor) -> None:
    """Compute `x @ weight.T + bias` into a tensor.

    Args:
        x: (N, I).
        weight: (O, I).
        bias: (O,) or None.
        into: (N, O).
    """
    if bias is None:
        torch.mm(x, weight.t(), out=into)
    else:
        torch.addmm(bias, x, weight.t(), out=into)


def layer_gradients(x: Tensor, dy: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Compute the gradients of weight and bias of `linear` into them.

    Args:
        x: (N, I).
        dy: Gradient of the result, (N, O).
        weight: Into the weight's gradient, (O, I), or None.
        bias: Into the bias's gradient, (O,), or None.
    """
    if weight is not None:
        torch.mm(dy.t(), x, out=weight)
    if bias is not None:
        torch.sum(dy, 0, out=bias)
