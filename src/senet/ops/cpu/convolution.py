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

__all__ = ["convolve", "packed_layer"]

# Channels, kernel, stride, padding, dilation, activation; hidden units, gates, activation of the hidden units, gate
# function, activation after the sum; addresses of panels, bias, w1, b1, w2, b2.
_LAYER: Final = struct.Struct("@16q6P")


def packed_layer(
    channels: int,
    inner: int,
    parameters: Sequence[Tensor | None],
    geometry: Sequence[int],
    functions: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """Return the structure that describes a convolution to the kernel.

    Args:
        channels: Of the output.
        inner: Channels of the input.
        parameters: panels, bias, and w1, b1, w2, b2 of a gate that is computed from the output.
        geometry: Stride, padding, dilation (two numbers each), and the number of the activation.
        functions: Numbers of the activation of the gate's hidden units, of the gate's function, and of the activation
            after scale and sum.
    """
    panels, _, w1, _, w2, _ = parameters
    assert panels is not None
    hidden, gates = (0, 0) if w1 is None or w2 is None else (len(w1), len(w2))
    return _LAYER.pack(
        channels, inner, *panels.shape[1:3], *geometry, hidden, gates, *functions,
        *(0 if t is None else t.data_ptr() for t in parameters),
    )  # fmt: skip


def convolve(
    layer: bytes,
    x: Tensor,
    y: Tensor,
    *,
    factors: Tensor | None = None,
    scale: Tensor | None = None,
    added: Tensor | None = None,
    gate: Tensor | None = None,
) -> None:
    """Compute a convolution, `act(scale * (conv(factors * x) + bias) + added)`, into y.

    Args:
        layer: From `packed_layer`.
        x: (N, I, H, W).
        y: (N, C, H', W'), channels_last.
        factors: (N, I), or None.
        scale: (N, C), or None.
        added: (N, C, H', W'), or None.
        gate: (N, gates), where the gate of the output is put. None scales the output by it.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    added = None if added is None else added.contiguous(memory_format=torch.channels_last)
    n, _, height, width = x.shape
    call(
        "senet_convolve", layer, n, height, width, *y.shape[2:], torch.get_num_threads(), x.data_ptr(),
        0 if factors is None else factors.data_ptr(), 0 if scale is None else scale.data_ptr(),
        0 if added is None else added.data_ptr(), y.data_ptr(), 0 if gate is None else gate.data_ptr(),
    )  # fmt: skip
