"""`bn_act_gate` with the gate of Squeeze-and-Excitation: two linear layers, in the same operator.

The excitation works on (N, C) numbers. As modules it is about 25 small operations of a training step, which take longer
than the operator itself where the feature map is small.

Source: Hu et al. 2018, eqs. 2-4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from senet.ops import bn_act_gate
from senet.ops.activation_functions import ACTIVATION_FUNCTIONS
from senet.ops.arguments import Signature, eager, gradients_by_autograd, memory_format, needs_gradient
from senet.ops.backend import Backend, backend_for
from senet.ops.batch_norm import contiguous
from senet.ops.excitation import Excitation

__all__ = ["SIGNATURE", "bn_act_se", "definition"]

SIGNATURE: Final = Signature(
    "bn_act_se",
    (*bn_act_gate.SIGNATURE.tensors, ("w1", "KC"), ("b1", "K"), ("w2", "CK"), ("b2", "C")),
    optional=bn_act_gate.SIGNATURE.optional | {"b1", "b2"},
    gpu=True,
)

Update = Callable[[Tensor], None]


def bn_act_se(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    *,
    training: bool,
    eps: float,
    activation: int,
    hidden_activation: int,
    gate: int,
    on_statistics: Update | None = None,
) -> Tensor:
    """Return `s * a(v)` with `v = batch_norm(x)` and `s = gate(w2 h(w1 mean(a(v)) + b1) + b2)`.

    Args:
        x: (N, C, H, W), float32, bfloat16 or float16; all parameters are float32.
        gamma: (C,) of the norm; None is one.
        beta: (C,) of the norm; None is zero.
        mean: (C,), not used if training. None for mean and var without training: `v = gamma x + beta`.
        var: (C,), not used if training.
        w1: (K, C), weight of the first linear layer.
        b1: (K,). None is zero.
        w2: (C, K), weight of the second linear layer.
        b2: (C,). None is zero.
        training: The norm takes the batch's statistics.
        eps: Of the norm.
        activation: Number of the activation a in `ACTIVATION_FUNCTIONS`.
        hidden_activation: Number of the activation h between the layers.
        gate: Number of the gate's function in `GATE_FUNCTIONS`.
        on_statistics: Called with mean and unbiased variance of the batch, (2, C).

    Returns:
        (N, C, H, W) in the memory format of x.

    Raises:
        ValueError: Sizes, types or devices don't belong together, or a number is out of range.
    """
    tensors = (x, gamma, beta, mean, var, w1, b1, w2, b2)
    SIGNATURE.check(tensors)
    bn_act_gate.check_options(x, mean, var, training, activation, operator="bn_act_se")
    SIGNATURE.check_gate(w1, b1, w2, b2, gate)
    if not 0 <= hidden_activation < len(ACTIVATION_FUNCTIONS):
        raise ValueError(f"bn_act_se: hidden_activation={hidden_activation} is none")
    options = (training, eps, activation, hidden_activation, gate)
    backend = backend_for(x)
    if backend is None or not x.numel() or not eager(*tensors):
        y, statistics = definition(*tensors, *options)
        if on_statistics is not None:
            on_statistics(statistics)
        return y.contiguous(memory_format=memory_format(x))
    if needs_gradient(tensors):
        return _Derived.apply(*tensors, options, on_statistics, backend)
    return _compute(tensors, options, on_statistics, backend)[0]


def definition(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    training: bool,
    eps: float,
    activation: int,
    hidden_activation: int,
    gate: int,
) -> tuple[Tensor, Tensor]:
    """What the operator computes, in plain PyTorch: any device, any type, differentiable twice; and the statistics."""

    layers = Excitation(w1, b1, w2, b2, hidden_activation, gate)

    def gate_of(z: Tensor) -> Tensor:
        return layers.computed(z.flatten(1))[:, :, None, None]

    options: dict[str, Any] = {"training": training, "eps": eps, "activation": activation}
    return bn_act_gate.definition(x, gamma, beta, mean, var, gate_of, **options)


_Options = tuple[bool, float, int, int, int]


def _compute(
    tensors: Sequence[Tensor | None], options: _Options, on_statistics: Update | None, backend: Backend
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result, and what its derivative needs: norm's vectors, means, first layer's result, gate."""
    x, norm, layers = tensors[0], contiguous(tensors[1:5]), contiguous(tensors[5:])
    assert x is not None
    assert layers[0] is not None
    n, c = x.shape[:2]
    step = backend.gated_step
    kept = memory_format(x)
    x = x.contiguous(memory_format=kept)
    hidden = layers[0].shape[0]
    # One allocation for all small results.
    statistics, saved, z, units, gate = x.new_empty(5 * c + 2 * n * c + n * hidden, dtype=torch.float32).split(
        (2 * c, 3 * c, n * c, n * hidden, n * c)
    )
    step.squeeze(x, norm, options[:3], (statistics, saved, z))
    if on_statistics is not None:
        on_statistics(statistics.view(2, c))
    step.excite(x, layers, options[3:], (z, units, gate))
    y = torch.empty_like(x, memory_format=kept)
    step.scale(x, saved, gate, norm, options[:3], y)
    return y, (saved, z, units, gate)


class _Derived(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, ctx.options, on_statistics, ctx.backend = arguments
        y, small = _compute(tensors, ctx.options, on_statistics, ctx.backend)
        ctx.save_for_backward(*tensors, *small)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, saved, z, units, gate = ctx.saved_tensors
        options: _Options = ctx.options
        step = ctx.backend.gated_step
        if torch.is_grad_enabled() or not eager(dy) or type(dy) is not Tensor:  # to be derived again, or in batches
            return *_derivative(dy, tensors, ctx.needs_input_grad[:9], options), None, None, None
        x, norm, layers = tensors[0], contiguous(tensors[1:5]), contiguous(tensors[5:])
        n, c = x.shape[:2]
        kept = memory_format(x)
        dy, x = (t.to(x.dtype).contiguous(memory_format=kept) for t in (dy, x))
        sums = x.new_empty((5, n, c), dtype=torch.float32)
        step.sums(dy, x, saved, norm, options[:3], sums)
        dz = torch.empty_like(z)
        of_layers = [None if p is None else torch.empty_like(p) for p in layers]
        step.excite_back(x, layers, options[3:], (z, units, gate, sums), (dz, of_layers))
        dx = torch.empty_like(x, memory_format=kept)
        of_norm = [None if p is None else torch.empty_like(p) for p in norm[:2]]
        step.backward(
            (dy, x, saved, gate, dz, sums), (*norm[:2], None, None), options[:3], (dx, of_norm[0], of_norm[1])
        )
        return dx, *of_norm, None, None, *of_layers, None, None, None


def _derivative(
    dy: Tensor, tensors: Sequence[Tensor | None], needed: Sequence[bool], options: _Options
) -> tuple[Tensor | None, ...]:
    """The gradients by those of the definition, themselves differentiable."""
    with torch.enable_grad():
        y, _ = definition(*tensors, *options)  # type: ignore[arg-type, call-arg]
    return gradients_by_autograd(y, tensors, needed, dy.to(y.dtype))
