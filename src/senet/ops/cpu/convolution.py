"""Call the kernel's packed convolution, with `struct senet_convolution` of kernel.h.

Callers check sizes and types. Feature maps are float32, parameters contiguous.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from senet.ops.cpu.library import call

__all__ = ["EARLY", "convolve", "packed_layer"]

Late = tuple[int, int, int]
EARLY: Final[Late] = (0, 1, 0)
"""The gate of a 1x1 convolution is computed from its input, with a ReLU between the layers."""

# Channels, kernel, stride, padding, dilation, activation, hidden units, gate; addresses of panels, bias, w1, b1, w2,
# b2; whether the gate comes from the result, activations of the hidden units and of the sum.
_LAYER: Final = struct.Struct("@13q6P3q")


def packed_layer(
    channels: int,
    inner: int,
    parameters: Sequence[Tensor | None],
    geometry: Sequence[int],
    gate: int,
    late: Late,
) -> bytes:
    """Return the structure that describes a convolution to the kernel.

    Args:
        channels: Of the output.
        inner: Channels of the input.
        parameters: panels, bias, w1, b1, w2, b2.
        geometry: Stride, padding, dilation (two numbers each), and the number of the activation.
        gate: Number of the gate function.
        late: Whether the gate is computed from the result, and the activations of hidden units and after the sum.
    """
    panels, _, w1, *_ = parameters
    assert panels is not None
    return _LAYER.pack(
        channels,
        inner,
        *panels.shape[1:3],
        *geometry,
        0 if w1 is None else w1.shape[0],
        gate,
        *(0 if t is None else t.data_ptr() for t in parameters),
        *late,
    )


def convolve(
    layer: bytes, x: Tensor, factors: Tensor | None, added: Tensor | None, y: Tensor, gate: Tensor | None = None
) -> None:
    """Compute a convolution into y.

    Args:
        layer: From `packed_layer`.
        x: (N, I, H, W).
        factors: (N, I), or None.
        added: (N, C, H', W'), or None.
        y: (N, C, H', W'), channels_last.
        gate: (N, C), where a gate from the result is put, which then doesn't scale y.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    added = None if added is None else added.contiguous(memory_format=torch.channels_last)
    n, _, height, width = x.shape
    call(
        "senet_convolve", layer, n, height, width, *y.shape[2:], torch.get_num_threads(), x.data_ptr(),
        0 if factors is None else factors.data_ptr(), 0 if added is None else added.data_ptr(), y.data_ptr(),
        0 if gate is None else gate.data_ptr(),
    )  # fmt: skip
