"""norm -> activation -> gate in Triton, with the functions of `senet.ops.cpu.gated_step`.

Callers have proved sizes, types and strides: feature maps are channels_last, everything else is contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from senet.ops.activation_functions import ACTIVATION_FUNCTIONS, ACTIVATION_SLOPES
from senet.ops.gate_functions import GATE_FUNCTIONS, GATE_SLOPES
from senet.ops.triton import moments
from senet.ops.triton.activated_mean import activated_mean
from senet.ops.triton.apply import apply
from senet.ops.triton.excitation import layer_gradients, linear
from senet.ops.triton.functions import GIVEN
from senet.ops.triton.gated_sums import gated_sums
from senet.ops.triton.gradient import channel_gradients, input_gradient
from senet.ops.triton.plan import plan

__all__ = ["backward", "excite", "excite_back", "scale", "squeeze", "sums"]

Parameters = Sequence[Tensor | None]

Options = tuple[bool, float, int]
"""Whether the norm takes the batch's statistics, its eps, the activation's number."""

IDENTITY = 0  # number of the identity in `ACTIVATIONS`


def squeeze(x: Tensor, norm: Parameters, options: Options, into: tuple[Tensor, Tensor, Tensor]) -> None:
    """Compute statistics, what the other calls need, and the means of the activated norm."""
    gamma, beta, mean, var = norm
    training, eps, activation = options
    statistics, saved, z = into
    programs = plan(x)
    pivot = x if training else mean
    partial = moments.measure(x, x, programs) if training else None
    moments.channel_moments(partial, pivot, None if training else var, eps, programs, statistics, saved)
    if partial is not None and activation == IDENTITY:  # the mean of v follows from that of x
        moments.sample_means(partial, x, saved, gamma, beta, programs, None, z)
    else:
        activated_mean(x, saved, gamma, beta, activation, programs, z)


def scale(x: Tensor, saved: Tensor, gate: Tensor, norm: Parameters, options: Options, into: Tensor) -> None:
    """Compute the result from x and the gate."""
    gamma, beta, *_ = norm
    apply(x, None, saved, gamma, beta, gate, plan(x), into, function=GIVEN, activation=options[2])


def sums(dy: Tensor, x: Tensor, saved: Tensor, norm: Parameters, options: Options, into: Tensor) -> None:
    """Compute the five sums of each sample and channel. The first is the gradient of the gate."""
    gamma, beta, *_ = norm
    gated_sums(dy, x, saved, gamma, beta, options[2], plan(x), into)


def backward(
    numbers: tuple[Tensor, ...], norm: Parameters, options: Options, into: tuple[Tensor, Tensor | None, Tensor | None]
) -> None:
    """Compute the gradients of x, gamma and beta from dy, x, what was saved, gate, the means' gradient and the sums."""
    dy, x, saved, gate, dz, found = numbers
    gamma, beta, *_ = norm
    training, _, activation = options
    dx, dgamma, dbeta = into
    programs = plan(x)
    of_channels = channel_gradients(found[1:3], found[3:], saved, gate, dz, GIVEN, programs, dgamma, dbeta)
    input_gradient(
        dy, x, saved, gamma, beta, gate, dz, of_channels if training else None, programs, dx, function=GIVEN,
        activation=activation,
    )  # fmt: skip


def excite(x: Tensor, layers: Parameters, options: tuple[int, int], numbers: Sequence[Tensor]) -> None:
    """Compute the gate of two linear layers.

    Args:
        x: The feature map, for its sizes.
        layers: w1, b1, w2, b2.
        options: Numbers of the activation between the layers and of the gate's function.
        numbers: The means; into the first layer's result, and the gate.
    """
    w1, b1, w2, b2 = layers
    assert w1 is not None
    assert w2 is not None
    activation, function = options
    z, units, gate = (t.view(len(x), -1) for t in numbers)
    with torch.autocast(x.device.type, enabled=False):
        linear(z, w1, b1, units)
        linear(ACTIVATION_FUNCTIONS[activation](units), w2, b2, gate)
        gate.copy_(GATE_FUNCTIONS[function](gate))


def excite_back(
    x: Tensor,
    layers: Parameters,
    options: tuple[int, int],
    numbers: Sequence[Tensor],
    into: tuple[Tensor, Sequence[Tensor | None]],
) -> None:
    """Compute the gradients of the means and of the two layers.

    Args:
        x: The feature map, for its sizes.
        layers: w1, b1, w2, b2.
        options: Numbers of the activation between the layers and of the gate's function.
        numbers: The means, the first layer's result, the gate, and the sums.
        into: The gradients of the means and of the layers.
    """
    w1, _, w2, b2 = layers
    assert w1 is not None
    assert w2 is not None
    activation, function = options
    n = len(x)
    z, units = (t.view(n, -1) for t in numbers[:2])
    dgate = numbers[3][0]
    dz, (dw1, db1, dw2, db2) = into
    with torch.autocast(x.device.type, enabled=False):
        hidden = ACTIVATION_FUNCTIONS[activation](units)
        argument = hidden @ w2.t() if b2 is None else torch.addmm(b2, hidden, w2.t())
        du = dgate * GATE_SLOPES[function](argument)
        layer_gradients(hidden, du, dw2, db2)
        dunits = (du @ w2) * ACTIVATION_SLOPES[activation](units)
        layer_gradients(z, dunits, dw1, db1)
        torch.mm(dunits, w1, out=dz.view(n, -1))
