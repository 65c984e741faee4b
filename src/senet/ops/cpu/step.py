"""The end of a residual block by the kernel: `struct senet_step` of kernel.h and the functions that take it.

Callers have proved sizes, types and strides: maps of one step have one memory format, parameters are contiguous.
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
"""Whether the norm takes the batch's statistics, its eps, the gate's number."""

Parameters = Sequence[Tensor | None]
NONE: Final = (None,) * 8
# Sizes and options, eps, the addresses of gamma, beta, mean, var, w1, b1, w2, b2.
_STEP: Final = struct.Struct("@9qd8P")
# `struct senet_gradients`: the addresses of those of gamma, beta, w1, b1, w2, b2.
_GRADIENTS: Final = struct.Struct("@6P")


def forward(
    x: Tensor, shortcut: Tensor | None, parameters: Parameters, options: Options, into: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Compute a step into y, statistics and what the backward pass needs."""
    call("senet_step_forward", packed(x, parameters, options), *addresses((x, shortcut, *into)))


def backward(
    maps: tuple[Tensor, Tensor, Tensor | None, Tensor],
    parameters: Parameters,
    options: Options,
    into: Sequence[Tensor | None],
) -> None:
    """Compute the gradients of x, shortcut and six parameters into these from dy, x, y and what was saved."""
    step = packed(maps[1], parameters, options)
    call("senet_step_backward", step, *addresses((*maps, *into[:2])), gradients(into[2:]))


def rescale(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    """Let x become `relu(gate * x + shortcut)`."""
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
