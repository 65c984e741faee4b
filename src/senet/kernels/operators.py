"""The compiled kernel as PyTorch operators, `senet::tail` and its derivative; for inference `senet::rescale_`."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from senet.kernels.library import choose, pointer

__all__ = ["rescale_", "tail", "tail_backward"]


class _Step(ctypes.Structure):
    """`struct senet_tail` of tail.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "hw", "hidden", "bf16", "last", "training", "gate", "threads")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("gamma", "beta", "mean", "var", "w1", "b1", "w2", "b2")),
    )


class _Gradients(ctypes.Structure):
    """`struct senet_gradients` of tail.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("gamma", "beta", "w1", "b1", "w2", "b2"))


@torch.library.custom_op("senet::tail", mutates_args=(), device_types="cpu")
def tail(
    x: Tensor,
    shortcut: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    training: bool,
    eps: float,
    gate: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`relu(s * batch_norm(x) + shortcut)`, with the gate s of Squeeze-and-Excitation if there is `w1`.

    Args:
        x: (N, C, H, W), float32 or bfloat16, contiguous or channels_last; all else is float32 and contiguous.
        shortcut: As x, in the same memory format; None is zero.
        gamma: (C,) of the norm; None is one.
        beta: (C,) of the norm; None is zero.
        mean: (C,), not used if training.
        var: (C,), not used if training.
        w1: (hidden, C) of the first linear layer; None: there is no gate.
        b1: (hidden,); None is zero.
        w2: (C, hidden) of the second.
        b2: (C,); None is zero.
        training: The norm takes the batch's statistics.
        eps: Of the norm.
        gate: Position of the gate's function, see excite.h.

    Returns:
        The result; mean and unbiased variance of the batch, (2, C), if training; what the backward pass needs.
    """
    y, statistics, saved = _outputs(x, w1)
    step = _step(x, (gamma, beta, mean, var, w1, b1, w2, b2), training, eps, gate)
    _run("senet_tail_forward", step, *map(pointer, (x, shortcut, y, statistics, saved)))
    return y, statistics, saved


@tail.register_fake
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, others[5])


@torch.library.custom_op("senet::tail_backward", mutates_args=(), device_types="cpu")
def tail_backward(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
    saved: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    training: bool,
    eps: float,
    gate: int,
) -> list[Tensor]:
    """Gradients of x, shortcut, gamma, beta, w1, b1, w2, b2; empty tensors for those that weren't there.

    `dy` is the gradient of the result, in any memory format; `y` the result, or None if there was no shortcut; `saved`
    what `tail` saved; the others are those of `tail`.
    """
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)
    gradients = _gradients(x, y, gamma, beta, w1, b1, w2, b2)
    dx, dshortcut, *small = [None if g.numel() == 0 else g for g in gradients]
    step = _step(x, (gamma, beta, None, None, w1, b1, w2, b2), training, eps, gate)
    into = _Gradients(*map(pointer, small))
    _run("senet_tail_backward", step, *map(pointer, (dy, x, y, saved, dx, dshortcut)), ctypes.byref(into))
    return gradients


@tail_backward.register_fake
def _(_dy: Tensor, x: Tensor, y: Tensor | None, _saved: Tensor, *others: Any) -> list[Tensor]:
    return _gradients(x, y, *others[:6])


@torch.library.custom_op("senet::rescale_", mutates_args=("x",), device_types="cpu")
def rescale_(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    """Let x become `relu(gate * x + shortcut)`; for inference, without derivative.

    Args:
        x: As in `tail`.
        gate: (N, C), float32.
        shortcut: As x, in the same memory format.
    """
    step = _step(x, (), False, 0.0, 0)
    _run("senet_tail_rescale", step, *map(pointer, (x, gate, shortcut, x)))


def _outputs(x: Tensor, w1: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    n, c = x.shape[:2]
    saved = 3 * c + (0 if w1 is None else 2 * n * c + n * w1.shape[0])
    small = torch.float32
    return torch.empty_like(x), x.new_empty((2, c), dtype=small), x.new_empty((saved,), dtype=small)


def _gradients(x: Tensor, y: Tensor | None, *parameters: Tensor | None) -> list[Tensor]:
    return [torch.empty_like(x), *(x.new_empty(0) if p is None else torch.empty_like(p) for p in (y, *parameters))]


def _step(x: Tensor, parameters: Sequence[Tensor | None], training: bool, eps: float, gate: int) -> _Step:
    """The parameters are gamma, beta, mean, var, w1, b1, w2, b2; missing ones at the end are None."""
    n, c, height, width = x.shape
    w1 = parameters[4] if parameters else None
    return _Step(
        n,
        c,
        height * width,
        0 if w1 is None else w1.shape[0],
        x.dtype == torch.bfloat16,
        not x.is_contiguous(),
        training,
        gate,
        torch.get_num_threads(),
        eps,
        *map(pointer, parameters),
    )


def _run(name: str, step: _Step, *arguments: Any) -> None:
    library = choose().library
    if library is None:
        raise RuntimeError(f"senet's compiled kernel isn't there: {choose().reason}")
    function = getattr(library, name)
    if function.argtypes is None:
        pointers = [ctypes.c_void_p] * (len(arguments) + 1)
        function.argtypes = pointers
    if function(ctypes.byref(step), *arguments):
        raise MemoryError("no memory for the end of a residual unit")
