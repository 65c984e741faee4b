"""A 1x1 convolution with what follows it in a residual unit, by the compiled kernel; for inference.

A function and no PyTorch operator: an operator written in Python costs tens of microseconds a call, and a network has
dozens of these. So the caller must know that nothing watches or traces.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from senet.kernels.library import choose

__all__ = ["Excitation", "pointwise"]


class Excitation(NamedTuple):
    """Two linear layers and the gate's position (excite.h): from the mean of the convolution's input to the gate."""

    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None
    gate: int


class _Step(ctypes.Structure):
    """`struct senet_pointwise` of tail.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "hw", "inner", "hidden", "gate", "threads")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "w1", "b1", "w2", "b2")),
    )


def pointwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    shortcut: Tensor,
    excitation: Excitation,
    *,
    product: Tensor | None = None,
) -> Tensor:
    """Return `relu(s * (weight x + bias) + shortcut)`, with `s = gate(w2 relu(w1 mean(x) + b1) + b2)`.

    Args:
        x: (N, C, H, W), channels_last; like all else float32.
        weight: (C', C, 1, 1), contiguous.
        bias: (C',).
        shortcut: (N, C', H, W), channels_last.
        excitation: Of the gate.
        product: `weight x + bias` as `shortcut`, if that is known already; the result is written over it.

    Returns:
        As `shortcut`.
    """
    chosen = choose()
    assert chosen.library is not None
    assert chosen.multiplies
    (n, inner, height, width), c = x.shape, weight.shape[0]
    y = torch.empty_like(shortcut) if product is None else product
    step = _Step(
        n, c, height * width, inner, excitation.w1.shape[0], excitation.gate, torch.get_num_threads(),
        weight.data_ptr() if product is None else None, bias.data_ptr(), *map(_pointer, excitation[:4]),
    )  # fmt: skip
    run = chosen.library.senet_pointwise
    if run.argtypes is None:
        run.argtypes = [ctypes.c_void_p] * 4
    if run(ctypes.byref(step), x.data_ptr(), shortcut.data_ptr(), y.data_ptr()):
        raise MemoryError("no memory for the end of a residual unit")
    return y


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
