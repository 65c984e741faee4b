"""Call the kernel's packed convolution, with `struct senet_convolution` of kernel.h.

Callers check sizes, types and strides. Feature maps are float32 and channels_last, parameters contiguous.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from senet.ops.cpu.library import call

__all__ = ["convolve"]

# Channels, kernel, stride, padding, dilation, activation, hidden units, gate; addresses of panels, bias, w1, b1, w2,
# b2, factors; whether the gate comes from the result, activations of the hidden units and of the sum.
_LAYER: Final = struct.Struct("@13q7P3q")


def convolve(
    x: Tensor,
    added: Tensor | None,
    y: Tensor,
    parameters: Sequence[Tensor | None],
    geometry: Sequence[int],
    gate: int,
    late: tuple[int, int, int] = (0, 1, 0),
) -> None:
    """Compute the convolution into y.

    Args:
        x: (N, I, H, W).
        added: (N, C, H', W'), or None.
        y: (N, C, H', W').
        parameters: panels, bias, w1, b1, w2, b2, factors.
        geometry: Stride, padding, dilation (two numbers each), and the number of the activation.
        gate: Number of the gate function.
        late: Whether the gate is computed from the result, and the activations of hidden units and after the sum.
    """
    panels, _, w1, *_ = parameters
    assert panels is not None
    layer = _LAYER.pack(
        y.shape[1],
        x.shape[1],
        *panels.shape[1:3],
        *geometry,
        0 if w1 is None else w1.shape[0],
        gate,
        *(0 if t is None else t.data_ptr() for t in parameters),
        *late,
    )
    sizes = (len(x), *x.shape[2:], *y.shape[2:], torch.get_num_threads())
    call("senet_convolve", layer, *sizes, x.data_ptr(), 0 if added is None else added.data_ptr(), y.data_ptr())
