"""norm -> activation -> gate by the kernel: the four calls of kernel.h.

Callers have proved sizes, types and strides: feature maps of one step have one memory format, all else is contiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from senet.ops.cpu import step as whole
from senet.ops.cpu.library import call

__all__ = ["backward", "excite", "squeeze", "sums"]

Options = tuple[bool, float, int]
"""Whether the norm takes the batch's statistics, its eps, the activation's number."""


def squeeze(
    x: Tensor, parameters: Sequence[Tensor | None], options: Options, into: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Compute statistics, what the other calls need, and the means of the activated norm."""
    _call("senet_gated_step_forward", x, parameters, options, x, *into)


def excite(
    x: Tensor, saved: Tensor, gate: Tensor, parameters: Sequence[Tensor | None], options: Options, into: Tensor
) -> None:
    """Compute the result from x and the gate."""
    _call("senet_gated_step_apply", x, parameters, options, x, saved, gate, into)


def sums(
    dy: Tensor, x: Tensor, saved: Tensor, parameters: Sequence[Tensor | None], options: Options, into: Tensor
) -> None:
    """Compute the five sums of each sample and channel."""
    _call("senet_gated_step_sums", x, parameters, options, dy, x, saved, into)


def backward(
    numbers: tuple[Tensor, ...],
    parameters: Sequence[Tensor | None],
    options: Options,
    into: tuple[Tensor, Tensor | None, Tensor | None],
) -> None:
    """Compute the gradients of x, gamma and beta from dy, x, what was saved, gate, the means' gradient and the sums."""
    dx, dgamma, dbeta = into
    small = whole.gradients((dgamma, dbeta, None, None, None, None))
    _call("senet_gated_step_backward", numbers[1], parameters, options, *numbers, dx, last=(small,))


def _call(
    name: str,
    x: Tensor,
    parameters: Sequence[Tensor | None],
    options: Options,
    *tensors: Tensor | None,
    last: tuple[bytes, ...] = (),
) -> None:
    training, eps, activation = options
    packed = whole.packed(x, (*parameters, None, None, None, None), (training, eps, 0))
    call(name, packed, activation, *whole.addresses(tensors), *last)
