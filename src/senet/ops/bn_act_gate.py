"""Batch norm, activation and a channel gate without the feature maps between them: `y = gate(mean(a(v))) * a(v)`.

The first call reads x and returns the mean of each sample and channel. The caller computes the gate from these (N, C)
numbers with any modules. The second call reads x again and writes the result. The backward pass reads dy and x twice,
as that of a norm does:

- The first pass adds up five products for each sample and channel. The first of them is the gradient of the gate.
- The gate's own modules turn it into the gradient m of the mean.
- With `dv = (gate * dy + m) * a'(v)` the norm's gradients follow from the other four; the second pass writes dx.

Kept for the backward pass are x, which the convolution before keeps as well, and vectors.

Source: Hu et al. 2018, eqs. 2-4; the sums follow from the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from senet.ops.activation_functions import ACTIVATION_FUNCTIONS, ACTIVATION_SLOPES
from senet.ops.arguments import Signature, eager, memory_format
from senet.ops.batch_norm import affine, contiguous, moments, norm_gradients, normalize, unbiased
from senet.ops.cpu import choose, gated_step

__all__ = ["SIGNATURE", "bn_act_gate", "definition"]

SIGNATURE: Final = Signature(
    "bn_act_gate",
    (("x", "NCHW"), ("gamma", "C"), ("beta", "C"), ("mean", "C"), ("var", "C")),
    optional=frozenset(("gamma", "beta", "mean", "var")),
)

GateOf = Callable[[Tensor], Tensor]


def bn_act_gate(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    gate_of: GateOf,
    *,
    training: bool,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor]:
    """Return `gate_of(mean(a(v))) * a(v)` with `v = batch_norm(x)`.

    Args:
        x: (N, C, H, W), float32 or bfloat16 on the CPU; all parameters are float32.
        gamma: (C,) of the norm; None is one.
        beta: (C,) of the norm; None is zero.
        mean: (C,), not used if training.
        var: (C,), not used if training.
        gate_of: Computes the gate, (N, C, 1, 1), from the means, (N, C, 1, 1) float32. It may use any modules.
        training: The norm takes the batch's statistics.
        eps: Of the norm.
        activation: Number of the activation a in `ACTIVATION_FUNCTIONS`.

    Returns:
        The result, in the memory format of x; mean and unbiased variance of the batch, (2, C), if training.

    Raises:
        ValueError: Sizes, types or devices don't belong together, or the gate has another shape.
    """
    _check(x, gamma, beta, mean, var, training, activation)
    step = _Step(training, eps, activation)
    z, token, statistics, saved = _Squeeze.apply(x, gamma, beta, mean, var, step)
    gate = gate_of(z)
    n, c = x.shape[:2]
    if gate.shape != (n, c, 1, 1):
        raise ValueError(f"bn_act_gate: the gate has shape {tuple(gate.shape)}; it must be ({n}, {c}, 1, 1)")
    return _Excite.apply(x, gate, token, gamma, beta, mean, var, saved, step), statistics


def definition(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    gate_of: GateOf,
    *,
    training: bool,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor]:
    """What the operator computes, in plain PyTorch: any device, any type, differentiable twice."""
    v, statistics, _ = _normed(x.to(torch.promote_types(x.dtype, torch.float32)), gamma, beta, mean, var, training, eps)
    a = ACTIVATION_FUNCTIONS[activation](v)
    return (a * gate_of(a.mean((2, 3), keepdim=True)).to(a.dtype)).to(x.dtype), statistics


def _check(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    activation: int,
) -> None:
    SIGNATURE.check((x, gamma, beta, mean, var))
    if not training and (mean is None or var is None):
        raise ValueError("bn_act_gate: without training it needs mean and var")
    if training and x.numel() == x.shape[1]:
        raise ValueError(f"bn_act_gate: expected more than 1 value per channel when training, got {tuple(x.shape)}")
    if not 0 <= activation < len(ACTIVATION_FUNCTIONS):
        raise ValueError(f"bn_act_gate: activation={activation} is none; use 0..{len(ACTIVATION_FUNCTIONS) - 1}")


class _Step:
    """The options of one call, and what its two backward functions hand to each other.

    Autograd runs `_Squeeze.backward` after `_Excite.backward` and the gate's own backward pass, since it waits for the
    gradients of all its results: of the means, which come by the gate, and of the token, which come from `_Excite`.
    """

    def __init__(self, training: bool, eps: float, activation: int) -> None:
        self.training, self.eps, self.activation = training, eps, activation
        self.gradient: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def options(self) -> tuple[bool, float, int]:
        return self.training, self.eps, self.activation


class _Squeeze(torch.autograd.Function):
    """From x to the means; backwards the second pass, which gives all gradients of the norm and of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parameters, step = arguments[:4], arguments[4]
        n, c = x.shape[:2]
        kept = memory_format(x)
        if choose().library is None or not x.numel():
            gamma, beta, mean, var = parameters
            v, statistics, saved = _normed(_wide(x), gamma, beta, mean, var, step.training, step.eps)
            z = ACTIVATION_FUNCTIONS[step.activation](v).mean((2, 3), keepdim=True)
        else:
            z, statistics = x.new_empty((n, c, 1, 1), dtype=torch.float32), x.new_empty((2, c), dtype=torch.float32)
            saved = x.new_empty((3 * c,), dtype=torch.float32)
            numbers = (x.contiguous(memory_format=kept), contiguous(parameters), step.options)
            gated_step.squeeze(*numbers, (statistics, saved, z))
        token = x.new_zeros((), dtype=torch.float32)
        ctx.mark_non_differentiable(statistics, saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *parameters, saved)
        ctx.step = step
        return z, token, statistics, saved

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *parameters, saved = ctx.saved_tensors
        step: _Step = ctx.step
        gradient, step.gradient = step.gradient, None
        if gradient is None and dz is None:
            return (None,) * 6
        if gradient is None:  # the gradient by way of the result came from `_Excite.backward`
            assert dz is not None
            return (*_squeeze_back(dz, x, *parameters, *step.options), None, None, None)
        dy, gate, sums = gradient
        if dz is None:
            dz = torch.zeros_like(gate)
        kept = memory_format(x)
        dx = torch.empty_like(x, memory_format=kept)
        gamma, beta = contiguous(parameters[:2])
        small = [None if p is None else torch.empty_like(p) for p in (gamma, beta)]
        numbers = (dy, x.contiguous(memory_format=kept), saved, gate, dz.float().contiguous(), sums)
        gated_step.backward(numbers, (gamma, beta, None, None), step.options, (dx, small[0], small[1]))
        return dx, *small, None, None, None


class _Excite(torch.autograd.Function):
    """From x and the gate to the result; backwards the first pass, which gives the gate's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, *arguments: Any) -> Tensor:
        _token, gamma, beta, mean, var, saved, step = arguments
        parameters = (gamma, beta, mean, var)
        kept = memory_format(x)
        wide = gate.float().contiguous()
        if choose().library is None or not x.numel():
            v = _normed(_wide(x), gamma, beta, mean, var, step.training, step.eps)[0]
            y = (ACTIVATION_FUNCTIONS[step.activation](v) * wide).to(x.dtype).contiguous(memory_format=kept)
        else:
            y = torch.empty_like(x, memory_format=kept)
            numbers = (x.contiguous(memory_format=kept), saved, wide)
            gated_step.excite(*numbers, contiguous(parameters), step.options, y)
        ctx.save_for_backward(x, gate, *parameters, saved)
        ctx.step = step
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 9
        x, gate, *parameters, saved = ctx.saved_tensors
        step: _Step = ctx.step
        step.gradient = None
        plain = torch.is_grad_enabled() or not eager(dy) or type(dy) is not Tensor  # to be derived again, or in batches
        if plain or choose().library is None or not x.numel():
            dx, dgate, dgamma, dbeta = _excite_back(dy, x, gate, *parameters, *step.options)
            return dx, dgate, None, dgamma, dbeta, None, None, None, None
        n, c = x.shape[:2]
        kept = memory_format(x)
        dy = dy.to(x.dtype).contiguous(memory_format=kept)
        sums = x.new_empty((5, n, c), dtype=torch.float32)
        numbers = (dy, x.contiguous(memory_format=kept), saved)
        gated_step.sums(*numbers, contiguous(parameters), step.options, sums)
        if ctx.needs_input_grad[2]:
            step.gradient = (dy, gate.float().contiguous(), sums)
        nothing = dy.new_zeros((), dtype=torch.float32)
        return None, sums[0].view(n, c, 1, 1).to(gate.dtype), nothing, None, None, None, None, None, None


# --- in plain PyTorch -------------------------------------------------------------------------------------------------


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _normed(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm's result, mean and unbiased variance (2, C), and the vectors that are kept (3 C)."""
    mean, var, inverse = moments(x, mean, var, training, eps)
    saved = torch.cat([mean, torch.zeros_like(mean), inverse])
    statistics = torch.stack([mean, unbiased(x, var)])
    return affine(normalize(x, mean, inverse), gamma, beta), statistics.detach(), saved.detach()


def _norm_back(
    dv: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, gamma and beta from that of the norm's result."""
    wide = _wide(x)
    mean, _, inverse = moments(wide, mean, var, training, eps)
    dx, dgamma, dbeta = norm_gradients(dv, normalize(wide, mean, inverse), inverse, gamma, training)
    return dx.to(x.dtype), None if gamma is None else dgamma, None if beta is None else dbeta


def _squeeze_back(dz: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, gamma and beta from that of the means, themselves differentiable."""
    *norm, activation = others
    v, _, _ = _normed(_wide(x), *norm)
    dv = dz / (x.shape[2] * x.shape[3]) * ACTIVATION_SLOPES[activation](v)
    return _norm_back(dv, x, *norm)


def _excite_back(
    dy: Tensor, x: Tensor, gate: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, the gate, gamma and beta from that of the result, themselves differentiable."""
    *norm, activation = others
    v, _, _ = _normed(_wide(x), *norm)
    wide = dy.to(v.dtype)
    dgate = (wide * ACTIVATION_FUNCTIONS[activation](v)).sum((2, 3), keepdim=True).to(gate.dtype)
    dx, dgamma, dbeta = _norm_back(wide * gate.to(v.dtype) * ACTIVATION_SLOPES[activation](v), x, *norm)
    return dx, dgate, dgamma, dbeta
