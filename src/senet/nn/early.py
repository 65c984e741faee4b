"""The end of a residual unit in inference, `relu(s * branch(x) + shortcut)`, where no gradient is wanted.

Behind a 1x1 convolution the gate s is known before the convolution runs: the squeeze is linear, and commutes with it.

Source: Hu et al. 2018, eqs. 2-4 and Fig. 3; the authors fuse scale and addition in inference ("Axpy").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from senet.kernels import Excitation, choose, pointwise, rescale_
from senet.nn._dims import over_space
from senet.nn.block import SqueezeExcite
from senet.nn.squeeze import mean
from senet.nn.tail import GATE_POSITIONS, alike, on_the_processor

__all__ = ["convolved", "rescaled"]

_LEAST_PIXELS: Final = 128
"""Of a batch. With fewer, most of the product's time is spent on reading the weight, which oneDNN has prepared."""


def rescaled(x: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
    """Return `relu(gate * x + shortcut)`, perhaps written over x.

    Args:
        x: What the branch gives, (N, C, H, W); nobody else needs it.
        gate: (N, C).
        shortcut: As x.
    """
    if on_the_processor(x) and alike(x, shortcut) and not torch.is_grad_enabled():
        rescale_(x, gate.float().contiguous(), shortcut)
        return x
    return torch.relu(x * over_space(gate, x) + shortcut)


def convolved(
    x: Tensor, conv: Callable[[Tensor], Tensor], shortcut: Tensor, *, weight: Tensor, bias: Tensor,
    first: nn.Linear, se: SqueezeExcite,
) -> Tensor:  # fmt: skip
    """Return `relu(s * conv(x) + shortcut)` of a 1x1 convolution.

    Args:
        x: (N, C, H, W).
        conv: (N, C, H, W) -> (N, C', H, W).
        shortcut: (N, C', H, W).
        weight: That of `conv`, (C', C, 1, 1).
        bias: That of `conv`, (C',).
        first: The gate's first linear layer, merged into the convolution: it reads the mean of x.
        se: The block whose second layer and gate follow.
    """
    if not _fits(x, weight, shortcut) or se.activate not in GATE_POSITIONS:
        gate = se.activate(se.fc2(torch.relu(first(mean(x)))))
        return rescaled(conv(x), gate, shortcut)
    excitation = Excitation(first.weight, first.bias, se.fc2.weight, se.fc2.bias, GATE_POSITIONS[se.activate])
    product = None
    if x.numel() // x.shape[1] < _LEAST_PIXELS:
        product = conv(x).contiguous(memory_format=torch.channels_last)  # a map of one channel may come as either
    return pointwise(x, weight, bias, shortcut, excitation, product=product)


def _fits(x: Tensor, weight: Tensor, shortcut: Tensor) -> bool:
    """Whether the compiled kernel can multiply, and nobody would miss the operators that it stands for."""
    return (
        on_the_processor(x)
        and choose().multiplies
        and type(shortcut) is Tensor
        and x.dtype == weight.dtype == shortcut.dtype == torch.float32
        and all(t.is_contiguous(memory_format=torch.channels_last) for t in (x, shortcut))
        and not torch.is_grad_enabled()
        and not torch._C._len_torch_dispatch_stack()
    )
