"""norm -> activation -> gate by the kernel: the calls of kernel.h.

Callers have proved sizes, types and strides: feature maps of one step have one memory format, all else is contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from senet.ops.cpu import step as whole
from senet.ops.cpu.library import call

__all__ = ["backward", "excite", "excite_back", "scale", "squeeze", "sums"]

Parameters = Sequence[Tensor | None]

Options = tuple[bool, float, int]
"""Whether the norm takes the batch's statistics, its eps, the activation's number."""


def squeeze(x: Tensor, norm: Parameters, options: Options, into: tuple[Tensor, Tensor, Tensor]) -> None:
    """Compute statistics, what the other calls need, and the means of the activated norm."""
    _call("senet_gated_step_forward", x, norm, options, x, *into)


def scale(x: Tensor, saved: Tensor, gate: Tensor, norm: Parameters, options: Options, into: Tensor) -> None:
    """Compute the result from x and the gate."""
    _call("senet_gated_step_apply", x, norm, options, x, saved, gate, into)


def sums(dy: Tensor, x: Tensor, saved: Tensor, norm: Parameters, options: Options, into: Tensor) -> None:
    """Compute the five sums of each sample and channel."""
    _call("senet_gated_step_sums", x, norm, options, dy, x, saved, into)


def backward(
    numbers: tuple[Tensor, ...], norm: Parameters, options: Options, into: tuple[Tensor, Tensor | None, Tensor | None]
) -> None:
    """Compute the gradients of x, gamma and beta from dy, x, what was saved, gate, the means' gradient and the sums."""
    dx, dgamma, dbeta = into
    small = whole.gradients((dgamma, dbeta, None, None, None, None))
    _call("senet_gated_step_backward", numbers[1], norm, options, *numbers, dx, last=(small,))


def excite(x: Tensor, layers: Parameters, options: tuple[int, int], numbers: Sequence[Tensor]) -> None:
    """Compute the gate of two linear layers.

    Args:
        x: The feature map, for its sizes.
        layers: w1, b1, w2, b2.
        options: Numbers of the activation between the layers and of the gate's function.
        numbers: The means; into the first layer's result, and the gate.
    """
    activation, gate = options
    packed = whole.packed(x, (*_NO_NORM, *layers), (False, 0.0, gate))
    call("senet_gated_step_excite", packed, activation, *whole.addresses(numbers))


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
        numbers: The means, the first layer's result, the gate, and the gate's gradient.
        into: The gradients of the means and of the layers.
    """
    activation, gate = options
    packed = whole.packed(x, (*_NO_NORM, *layers), (False, 0.0, gate))
    small = whole.gradients((None, None, *into[1]))
    call("senet_gated_step_excite_back", packed, activation, *whole.addresses((*numbers, into[0])), small)


_NO_NORM = (None,) * 4
_NO_LAYERS = (None,) * 4


def _call(
    name: str, x: Tensor, norm: Parameters, options: Options, *tensors: Tensor, last: tuple[bytes, ...] = ()
) -> None:
    training, eps, activation = options
    packed = whole.packed(x, (*norm, *_NO_LAYERS), (training, eps, 0))
    call(name, packed, activation, *whole.addresses(tensors), *last)
