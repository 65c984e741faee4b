"""Batch norm, activation and a channel gate without the feature maps between them: `y = gate(mean(a(v))) * a(v)`.

The squeeze reads x and returns the mean of each sample and channel. The caller computes the gate from these (N, C)
numbers with any modules. The scale reads x again and writes the result. The backward pass reads dy and x twice, as that
of a norm does:

- The first pass adds up five products for each sample and channel. The first of them is the gradient of the gate.
- The gate's own modules turn it into the gradient m of the mean.
- With `dv = (gate * dy + m) * a'(v)` the norm's gradients follow from the other four; the second pass writes dx.

Kept for the backward pass are x, which the convolution before keeps as well, and vectors.

Source: Hu et al. 2018, eqs. 2-4; the sums follow from the chain rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from senet.ops.activation_functions import ACTIVATION_FUNCTIONS, ACTIVATION_SLOPES
from senet.ops.arguments import Signature, eager, memory_format, needs_gradient
from senet.ops.backend import Backend, backend_for
from senet.ops.batch_norm import affine, contiguous, moments, norm_gradients, normalize, unbiased

__all__ = ["SIGNATURE", "Squeezed", "bn_act_gate", "bn_act_squeeze", "check_options", "definition"]

SIGNATURE: Final = Signature(
    "bn_act_gate",
    (("x", "NCHW"), ("gamma", "C"), ("beta", "C"), ("mean", "C"), ("var", "C")),
    optional=frozenset(("gamma", "beta", "mean", "var")),
    gpu=True,
)

GateOf = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Squeezed:
    """The operator after its squeeze.

    Attributes:
        means: Of `a(v)`, (N, C, 1, 1).
        statistics: Mean and unbiased variance of the batch, (2, C), if training.
    """

    means: Tensor
    statistics: Tensor
    _scaled: Callable[[Tensor], Tensor]

    def scaled(self, gate: Tensor) -> Tensor:
        """Return `gate * a(v)`, in the memory format of x.

        Args:
            gate: (N, C, 1, 1).

        Raises:
            ValueError: The gate has another shape.
        """
        if gate.shape != self.means.shape:
            expected = tuple(self.means.shape)
            raise ValueError(f"bn_act_gate: the gate has shape {tuple(gate.shape)}; it must be {expected}")
        return self._scaled(gate)


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
    """Return `gate_of(mean(a(v))) * a(v)` with `v = batch_norm(x)`, and the statistics.

    `bn_act_squeeze` describes the arguments; `gate_of` computes the gate from the means, (N, C, 1, 1) both, and may use
    any modules.
    """
    squeezed = bn_act_squeeze(x, gamma, beta, mean, var, training=training, eps=eps, activation=activation)
    return squeezed.scaled(gate_of(squeezed.means)), squeezed.statistics


def bn_act_squeeze(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    *,
    training: bool,
    eps: float,
    activation: int,
) -> Squeezed:
    """Compute the means of `a(v)`, from which the caller computes the gate.

    Args:
        x: (N, C, H, W), float32, bfloat16 or float16; all parameters are float32.
        gamma: (C,) of the norm; None is one.
        beta: (C,) of the norm; None is zero.
        mean: (C,), not used if training. None for mean and var without training: `v = gamma x + beta`.
        var: (C,), not used if training.
        training: The norm takes the batch's statistics.
        eps: Of the norm.
        activation: Number of the activation a in `ACTIVATION_FUNCTIONS`.

    Raises:
        ValueError: Sizes, types or devices don't belong together.
    """
    SIGNATURE.check((x, gamma, beta, mean, var))
    check_options(x, mean, var, training, activation, operator="bn_act_gate")
    parameters, options = (gamma, beta, mean, var), (training, eps, activation)
    backend = backend_for(x)
    if backend is None or not x.numel() or not eager(x, *parameters):
        a, statistics = _activated(x, *parameters, *options)

        def multiplied(gate: Tensor) -> Tensor:
            return (a * gate.to(a.dtype)).to(x.dtype).contiguous(memory_format=memory_format(x))

        return Squeezed(a.mean((2, 3), keepdim=True), statistics, multiplied)
    if not needs_gradient((x, gamma, beta)):
        z, statistics, saved = _squeeze(x, parameters, options, backend)

        def scaled(gate: Tensor) -> Tensor:
            if needs_gradient((gate,)):  # the gate's layers are trained, and nothing before them
                return _Excite.apply(x, gate, None, *parameters, saved, _Step(options, backend))
            return _excite(x, gate, saved, parameters, options, backend)

        return Squeezed(z, statistics, scaled)
    step = _Step(options, backend)
    z, token, statistics, saved = _Squeeze.apply(x, *parameters, step)
    return Squeezed(z, statistics, lambda gate: _Excite.apply(x, gate, token, *parameters, saved, step))


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
    a, statistics = _activated(x, gamma, beta, mean, var, training, eps, activation)
    return (a * gate_of(a.mean((2, 3), keepdim=True)).to(a.dtype)).to(x.dtype), statistics


def check_options(
    x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool, activation: int, *, operator: str
) -> None:
    """Check the norm's options and the activation's number.

    Raises:
        ValueError: They don't belong together.
    """
    if not training and (mean is None) != (var is None):
        raise ValueError(f"{operator}: without training it needs both mean and var, or neither for no norm")
    if training and x.numel() == x.shape[1]:
        raise ValueError(f"{operator}: expected more than 1 value per channel when training, got {tuple(x.shape)}")
    if not 0 <= activation < len(ACTIVATION_FUNCTIONS):
        raise ValueError(f"{operator}: activation={activation} is none; use 0..{len(ACTIVATION_FUNCTIONS) - 1}")


# --- by a back end ----------------------------------------------------------------------------------------------------

_Parameters = Sequence[Tensor | None]
_Options = tuple[bool, float, int]


def _squeeze(x: Tensor, parameters: _Parameters, options: _Options, backend: Backend) -> tuple[Tensor, Tensor, Tensor]:
    """The means, the statistics, and the vectors that the other calls need."""
    n, c = x.shape[:2]
    z, statistics = x.new_empty((n, c, 1, 1), dtype=torch.float32), x.new_empty((2, c), dtype=torch.float32)
    saved = x.new_empty((3 * c,), dtype=torch.float32)
    whole = x.contiguous(memory_format=memory_format(x))
    backend.gated_step.squeeze(whole, contiguous(parameters), options, (statistics, saved, z))
    return z, statistics, saved


def _excite(
    x: Tensor, gate: Tensor, saved: Tensor, parameters: _Parameters, options: _Options, backend: Backend
) -> Tensor:
    kept = memory_format(x)
    y = torch.empty_like(x, memory_format=kept)
    backend.gated_step.scale(
        x.contiguous(memory_format=kept), saved, gate.float().contiguous(), contiguous(parameters), options, y
    )  # fmt: skip
    return y


class _Step:
    """Options and back end of one call, and what its two backward functions hand to each other.

    Autograd runs `_Squeeze.backward` after `_Excite.backward` and the gate's own backward pass, since it waits for the
    gradients of all its results: of the means, which come by the gate, and of the token, which come from `_Excite`.
    """

    def __init__(self, options: _Options, backend: Backend) -> None:
        self.options, self.backend = options, backend
        self.gradient: tuple[Tensor, Tensor, Tensor] | None = None


class _Squeeze(torch.autograd.Function):
    """From x to the means; backwards the second pass, which gives all gradients of the norm and of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *parameters, step = arguments
        z, statistics, saved = _squeeze(x, parameters, step.options, step.backend)
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
        step.backend.gated_step.backward(numbers, (gamma, beta, None, None), step.options, (dx, small[0], small[1]))
        return dx, *small, None, None, None


class _Excite(torch.autograd.Function):
    """From x and the gate to the result; backwards the first pass, which gives the gate's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, *arguments: Any) -> Tensor:
        _token, *parameters, saved, step = arguments
        ctx.save_for_backward(x, gate, *parameters, saved)
        ctx.step = step
        ctx.set_materialize_grads(False)
        return _excite(x, gate, saved, parameters, step.options, step.backend)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:
            return (None,) * 9
        x, gate, *parameters, saved = ctx.saved_tensors
        step: _Step = ctx.step
        step.gradient = None
        if torch.is_grad_enabled() or not eager(dy) or type(dy) is not Tensor:  # to be derived again, or in batches
            dx, dgate, dgamma, dbeta = _excite_back(dy, x, gate, *parameters, *step.options)
            return dx, dgate, None, dgamma, dbeta, None, None, None, None
        n, c = x.shape[:2]
        kept = memory_format(x)
        dy = dy.to(x.dtype).contiguous(memory_format=kept)
        sums = x.new_empty((5, n, c), dtype=torch.float32)
        numbers = (dy, x.contiguous(memory_format=kept), saved)
        step.backend.gated_step.sums(*numbers, contiguous(parameters), step.options, sums)
        nothing = None
        if ctx.needs_input_grad[2]:
            step.gradient = (dy, gate.float().contiguous(), sums)
            nothing = dy.new_zeros((), dtype=torch.float32)
        return None, sums[0].view(n, c, 1, 1).to(gate.dtype), nothing, None, None, None, None, None, None


# --- in plain PyTorch -------------------------------------------------------------------------------------------------


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _activated(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """The activated norm in at least float32, and the statistics."""
    *norm, activation = others
    v, statistics = _normed(_wide(x), *norm)
    return ACTIVATION_FUNCTIONS[activation](v), statistics


def _normed(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """The norm's result, and mean and unbiased variance, (2, C)."""
    mean, var, inverse = _moments(x, mean, var, training, eps)
    statistics = torch.stack([mean, unbiased(x, var)])
    return affine(normalize(x, mean, inverse), gamma, beta), statistics.detach()


def _moments(
    x: Tensor, mean: Tensor | None, var: Tensor | None, training: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    if training or mean is not None:
        return moments(x, mean, var, training, eps)
    one = x.new_ones(x.shape[1])  # no norm
    return torch.zeros_like(one), one, one


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
    mean, _, inverse = _moments(wide, mean, var, training, eps)
    dx, dgamma, dbeta = norm_gradients(dv, normalize(wide, mean, inverse), inverse, gamma, training)
    return dx.to(x.dtype), None if gamma is None else dgamma, None if beta is None else dbeta


def _squeeze_back(dz: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, gamma and beta from that of the means, themselves differentiable."""
    *norm, activation = others
    v, _ = _normed(_wide(x), *norm)
    dv = dz / (x.shape[2] * x.shape[3]) * ACTIVATION_SLOPES[activation](v)
    return _norm_back(dv, x, *norm)


def _excite_back(
    dy: Tensor, x: Tensor, gate: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of x, the gate, gamma and beta from that of the result, themselves differentiable."""
    *norm, activation = others
    v, _ = _normed(_wide(x), *norm)
    wide = dy.to(v.dtype)
    dgate = (wide * ACTIVATION_FUNCTIONS[activation](v)).sum((2, 3), keepdim=True).to(gate.dtype)
    dx, dgamma, dbeta = _norm_back(wide * gate.to(v.dtype) * ACTIVATION_SLOPES[activation](v), x, *norm)
    return dx, dgate, dgamma, dbeta
