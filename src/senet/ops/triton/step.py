"""The residual epilogue in Triton, with the functions of `senet.ops.cpu.step`.

Callers check sizes, types and strides. Feature maps are channels_last, everything else is contiguous.

Forward it reads x, then x and the shortcut, and writes y: four passes over feature maps. Backward it reads dy, x and y
and writes the shortcut's gradient, then reads that and x and writes the gradient of x: seven passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from senet.ops.triton import moments
from senet.ops.triton.apply import apply
from senet.ops.triton.excitation import layer_gradients, linear
from senet.ops.triton.functions import GIVEN
from senet.ops.triton.gradient import channel_gradients, input_gradient
from senet.ops.triton.plan import plan
from senet.ops.triton.residual_sums import gate_gradient, residual_sums

__all__ = ["Options", "backward", "forward", "rescale"]

Options = tuple[bool, float, int]
"""Whether the norm uses the batch's statistics, its eps, and the number of the gate function."""

Parameters = Sequence[Tensor | None]


def forward(
    x: Tensor, shortcut: Tensor | None, parameters: Parameters, options: Options, outputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Compute a step: y, statistics, and the values for the backward pass.

    These values are mean, its rounding error and 1 / deviation, (C,) each. With a gate, mean(x) less the channel's mean
    and the gate's argument, (N, C) each, and the hidden units, (N, K).
    """
    gamma, beta, mean, var, w1, b1, w2, b2 = parameters
    training, eps, gate = options
    y, statistics, saved = outputs
    programs = plan(x)
    partial = None
    pivot = x if training else mean
    assert pivot is not None
    if training or w1 is not None:
        partial = moments.measure(x, pivot, programs)
    moments.channel_moments(partial if training else None, pivot, var, eps, programs, statistics, saved)
    argument = None
    if w1 is not None:
        assert w2 is not None
        assert partial is not None
        deviations, argument, hidden = _of_gate(x, saved, w1)
        z = torch.empty_like(argument)
        moments.sample_means(partial, pivot, saved, gamma, beta, programs, deviations, z)
        with torch.autocast(x.device.type, enabled=False):
            linear(z, w1, b1, hidden)
            linear(hidden.relu_(), w2, b2, argument)
    apply(x, shortcut, saved, gamma, beta, argument, programs, y, function=gate, rectify=True)


def backward(
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor],
    parameters: Parameters,
    options: Options,
    outputs: Sequence[Tensor | None],
) -> None:
    """Compute the gradients of x, shortcut and six parameters from dy, x, y and the saved values."""
    dy, x, y, saved = inputs
    gamma, beta, _, _, w1, _, w2, _ = parameters
    dx, masked, dgamma, dbeta, dw1, db1, dw2, db2 = outputs
    training, _, gate = options
    assert dx is not None
    programs = plan(x)
    argument = dz = squeezed = None
    if w1 is not None:
        squeezed, argument, hidden = _of_gate(x, saved, w1)
    sums = residual_sums(dy, x, y, saved, gamma, beta, argument, gate, programs, masked)
    if w1 is not None:
        assert w2 is not None
        assert squeezed is not None
        assert argument is not None
        sums, du, z = gate_gradient(sums, squeezed, saved, gamma, beta, argument, gate, programs)
        with torch.autocast(x.device.type, enabled=False):
            layer_gradients(hidden, du, dw2, db2)
            dhidden = torch.ops.aten.threshold_backward(du @ w2, hidden, 0)
            layer_gradients(z, dhidden, dw1, db1)
            dz = dhidden @ w1
    of_channels = None
    if training or dgamma is not None or dbeta is not None:
        of_channels = channel_gradients(sums, squeezed, saved, argument, dz, gate, programs, dgamma, dbeta)
    behind = dy if masked is None else masked
    input_gradient(
        behind, x, saved, gamma, beta, argument, dz, of_channels if training else None, programs, dx, function=gate,
        rectify=masked is None,
    )  # fmt: skip


def rescale(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    """Compute `relu(gate * x + shortcut)` in place of x."""
    apply(x, shortcut, None, None, None, gate, plan(x), x, function=GIVEN, rectify=True)


def _of_gate(x: Tensor, saved: Tensor, w1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The parts of the saved values that belong to the gate: deviations (N * C,), argument (N, C), hidden (N, K)."""
    n, c = x.shape[:2]
    deviations, argument, hidden = saved[3 * c :].split((n * c, n * c, n * w1.shape[0]))
    return deviations, argument.view(n, c), hidden.view(n, -1)
