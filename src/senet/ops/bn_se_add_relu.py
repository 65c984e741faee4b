"""`senet::bn_se_add_relu`: batch norm, Squeeze-and-Excitation, sum and ReLU as one operator."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.cpu import choose, pointer
from senet.ops.gate_functions import GATE_FUNCTIONS

__all__ = ["bn_se_add_relu", "bn_se_add_relu_backward", "definition"]


class _Step(ctypes.Structure):
    """`struct senet_tail` of kernel.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n", "c", "hw", "hidden", "bf16", "last", "training", "gate", "threads")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("gamma", "beta", "mean", "var", "w1", "b1", "w2", "b2")),
    )


class _Gradients(ctypes.Structure):
    """`struct senet_gradients` of kernel.h."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in ("gamma", "beta", "w1", "b1", "w2", "b2"))


@torch.library.custom_op("senet::bn_se_add_relu", mutates_args=(), device_types="cpu")
def bn_se_add_relu(
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


@bn_se_add_relu.register_fake
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _outputs(x, others[5])


@torch.library.custom_op("senet::bn_se_add_relu_backward", mutates_args=(), device_types="cpu")
def bn_se_add_relu_backward(
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
    what `bn_se_add_relu` saved; the others are those of `bn_se_add_relu`.
    """
    if dy.stride() != x.stride():
        dy = torch.empty_like(x).copy_(dy)
    gradients = _gradients(x, y, gamma, beta, w1, b1, w2, b2)
    dx, dshortcut, *small = [None if g.numel() == 0 else g for g in gradients]
    step = _step(x, (gamma, beta, None, None, w1, b1, w2, b2), training, eps, gate)
    into = _Gradients(*map(pointer, small))
    _run("senet_tail_backward", step, *map(pointer, (dy, x, y, saved, dx, dshortcut)), ctypes.byref(into))
    return gradients


@bn_se_add_relu_backward.register_fake
def _(_dy: Tensor, x: Tensor, y: Tensor | None, _saved: Tensor, *others: Any) -> list[Tensor]:
    return _gradients(x, y, *others[:6])


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


def definition(x: Tensor, shortcut: Tensor | None, *parameters: Any) -> Tensor:
    """What the operator `senet::bn_se_add_relu` computes, in plain PyTorch: any device, any type, differentiable twice.

    Args:
        x: (N, C, H, W).
        shortcut: As x; None is zero.
        parameters: The other arguments of `bn_se_add_relu`.

    Returns:
        (N, C, H, W), of the type of x. In half precision it computes in float32, as the kernel does.
    """
    scaled = _before_add(x, *parameters)
    return torch.relu(scaled if shortcut is None else scaled + shortcut).to(x.dtype)


def _before_add(
    x: Tensor,
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
) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    kept = (None, None) if training else (mean, var)
    v = F.batch_norm(x, *kept, gamma, beta, training, 0.0, eps)
    if w1 is None:
        return v
    assert w2 is not None
    hidden = torch.relu(F.linear(v.mean((2, 3)), w1, b1))
    return v * GATE_FUNCTIONS[gate](F.linear(hidden, w2, b2))[:, :, None, None]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, shortcut, *parameters, ctx.training, ctx.eps, ctx.gate = inputs
    y, statistics, saved = output
    ctx.mark_non_differentiable(statistics, saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, None if shortcut is None else y, saved, *parameters)


def _backward(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    x, y, saved, gamma, beta, mean, var, *layers = ctx.saved_tensors
    options = (ctx.training, ctx.eps, ctx.gate)
    if dy is None:
        return (None,) * 13
    if torch.is_grad_enabled():  # the gradient is to be derived again
        return *_backward_definition(dy, x, y, gamma, beta, mean, var, *layers, *options), None, None, None
    found = bn_se_add_relu_backward(dy, x, y, saved, gamma, beta, *layers, *options)
    dx, dshortcut, dgamma, dbeta, *dlayers = (
        gradient if there is not None else None
        for gradient, there in zip(found, (x, y, gamma, beta, *layers), strict=True)
    )
    return dx, dshortcut, dgamma, dbeta, None, None, *dlayers, None, None, None


def _backward_definition(dy: Tensor, x: Tensor, y: Tensor | None, *parameters: Any) -> tuple[Tensor | None, ...]:
    """The gradients of `definition`, themselves differentiable; without the shortcut, whose values aren't kept.

    The result is `mask * (before + shortcut)`, with a mask of zeros and ones that has no gradient.
    """
    before = _before_add(x, *parameters)
    positive = (before if y is None else y) > 0
    masked = torch.where(positive, dy, 0).to(before.dtype)
    wanted = [t for t in (x, *parameters[:-3]) if t is not None and t.requires_grad]
    found = iter(torch.autograd.grad(before, wanted, masked, create_graph=True))
    dx, *others = (next(found) if t is not None and t.requires_grad else None for t in (x, *parameters[:-3]))
    return dx, None if y is None else masked.to(dy.dtype), *others


bn_se_add_relu.register_autograd(_backward, setup_context=_keep)
