"""Call the kernel's residual epilogue, with `struct senet_step` of kernel.h.

Callers check sizes, types and strides. The feature maps of a step have one memory format, parameters are contiguous.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from senet.ops.cpu.library import call

__all__ = ["Options", "addresses", "backward", "forward", "gradients", "packed", "rescale"]

Options = tuple[bool, float, int]
"""Whether the norm uses the batch's statistics, its eps, and the number of the gate function."""

Parameters = Sequence[Tensor | None]
NONE: Final = (None,) * 8
# Sizes and options, eps, the addresses of gamma, beta, mean, var, w1, b1, w2, b2.
_STEP: Final = struct.Struct("@9qd8P")
# `struct senet_gradients`: the addresses of the gradients of gamma, beta, w1, b1, w2, b2.
_GRADIENTS: Final = struct.Struct("@6P")


def forward(
    x: Tensor, shortcut: Tensor | None, parameters: Parameters, options: Options, outputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Compute a step: y, statistics, and the values for the backward pass."""
    call("senet_step_forward", packed(x, parameters, options), *addresses((x, shortcut, *outputs)))


def backward(
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor],
    parameters: Parameters,
    options: Options,
    outputs: Sequence[Tensor | None],
) -> None:
    """Compute the gradients of x, shortcut and six parameters from dy, x, y and the saved values."""
    step = packed(inputs[1], parameters, options)
    call("senet_step_backward", step, *addresses((*inputs, *outputs[:2])), gradients(outputs[2:]))


def rescale(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    """Compute `relu(gate * x + shortcut)` in place of x."""
    call("senet_step_rescale", packed(x, NONE, (False, 0.0, 0)), *addresses((x, gate, shortcut, x)))


def gradients(tensors: Iterable[Tensor | None]) -> bytes:
    """`struct senet_gradients` of six gradients."""
    return _GRADIENTS.pack(*addresses(tensors))


def packed(x: Tensor, parameters: Parameters, options: Options) -> bytes:
    """`struct senet_step` of a feature map and eight parameters."""
    n, c, height, width = x.shape
    w1 = parameters[4]
    training, eps, gate = options
    hidden = 0 if w1 is None else w1.shape[0]
    last, half = not x.is_contiguous(), x.dtype is torch.bfloat16
    sizes = (n, c, height * width, hidden, half, last, training, gate, torch.get_num_threads())
    return _STEP.pack(*sizes, eps, *addresses(parameters))


def addresses(tensors: Iterable[Tensor | None]) -> list[int]:
    """Where the tensors' numbers lie in memory; 0 for None."""
    return [0 if t is None else t.data_ptr() for t in tensors]
