"""A depthwise convolution with its activation, and the spatial means of the result. For inference."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.activation_functions import ACTIVATION_FUNCTIONS
from senet.ops.arguments import convolution_size
from senet.ops.cpu.library import call
from senet.ops.inference import takes

__all__ = ["definition", "depthwise_convolution", "packed_layer", "run"]

Pair = Sequence[int]
# `struct senet_depthwise` of kernel.h: channels, kernel, stride, padding, dilation, activation; weight, bias.
_LAYER: Final = struct.Struct("@10q2P")


def depthwise_convolution(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    activation: int,
    *,
    means: bool = False,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Return `act(conv(factors * x) + bias)`, and its means over the positions.

    Args:
        x: (N, C, H, W).
        taps: (Y, X, C), the weight with the channels last.
        bias: (C,).
        stride: Two numbers.
        padding: Zero padding, two numbers.
        dilation: Two numbers.
        activation: Number of the activation in `ACTIVATIONS`.
        means: Whether to compute the means.
        factors: (N, C), one factor per channel of x. None is 1.

    Returns:
        (N, C, H', W'), and (N, C), or None without `means`.

    Example:
        >>> import torch
        >>> from senet.ops.depthwise_convolution import depthwise_convolution
        >>> x, taps, bias = torch.ones(1, 8, 4, 4), torch.ones(3, 3, 8), torch.zeros(8)
        >>> y, means = depthwise_convolution(x, taps, bias, (1, 1), (0, 0), (1, 1), 1, means=True)
        >>> y.shape, means[0, 0]
        (torch.Size([1, 8, 2, 2]), tensor(9.))
    """
    sizes = convolution_size(x, taps.shape[:2], stride, padding, dilation)
    fits = taps.ndim == 3 and tuple(bias.shape) == (x.shape[1],) == (taps.shape[2],) and min(sizes) > 0
    fits = fits and (factors is None or factors.shape == x.shape[:2])
    if not fits or not takes(x, (taps, bias, factors)):
        return definition(x, taps, bias, stride, padding, dilation, activation, means=means, factors=factors)
    return run(packed_layer(taps, bias, (*stride, *padding, *dilation, activation)), x, factors, sizes, means=means)


def packed_layer(taps: Tensor, bias: Tensor, geometry: Sequence[int]) -> bytes:
    """Return the structure that describes a convolution to the kernel.

    Args:
        taps: As in `depthwise_convolution`, contiguous.
        bias: As in `depthwise_convolution`, contiguous.
        geometry: Stride, padding, dilation (two numbers each), and the number of the activation.
    """
    height, width, c = taps.shape
    return _LAYER.pack(c, height, width, *geometry, taps.data_ptr(), bias.data_ptr())


def run(
    layer: bytes, x: Tensor, factors: Tensor | None, sizes: Sequence[int], *, means: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute `depthwise_convolution` by the kernel. Callers check sizes and types.

    Args:
        layer: From `packed_layer`.
        x: As in `depthwise_convolution`.
        factors: As in `depthwise_convolution`, contiguous.
        sizes: Height and width of the result.
        means: Whether to compute the means.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, height, width = x.shape
    y = torch.empty((n, c, *sizes), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    found = torch.empty((n, c), dtype=x.dtype, device=x.device) if means else None
    call(
        "senet_depthwise_convolve", layer, n, height, width, *sizes, torch.get_num_threads(), x.data_ptr(),
        0 if factors is None else factors.data_ptr(), y.data_ptr(), 0 if found is None else found.data_ptr(),
    )  # fmt: skip
    return y, found


def definition(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    activation: int,
    *,
    means: bool,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Compute `depthwise_convolution` in plain PyTorch: any device, any type, differentiable."""
    if factors is not None:
        x = x * factors[:, :, None, None]
    weight = taps.movedim(2, 0)[:, None]
    y = F.conv2d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), len(bias))
    y = ACTIVATION_FUNCTIONS[activation](y)
    return y, y.mean((2, 3)) if means else None
