"""A convolution fused with the sum and activation after it, by oneDNN where possible. For inference.

PyTorch's operators with oneDNN's "post-operations" have private names. They are looked up once. Without them plain
operations run.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.ops.activation_functions import ACTIVATION_FUNCTIONS
from senet.ops.arguments import FEATURE_MAP_DTYPES, convolution_size, eager, needs_gradient

__all__ = ["definition", "dense_convolution"]


def dense_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    added: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: int,
) -> Tensor:
    """Return `act(conv(x) + added)`, (N, I, H, W) -> (N, C, H', W').

    Args:
        x: (N, I, H, W).
        weight: (C, I / groups, Y, X).
        bias: (C,).
        added: (N, C, H', W'). None is zero.
        stride: As in `torch.nn.functional.conv2d`.
        padding: Zero padding.
        dilation: Dilation of the kernel.
        groups: Groups of the channels.
        activation: Number of the activation in `ACTIVATIONS`. 0 is none, 1 the ReLU.
    """
    arguments = (x, weight, bias, added, stride, padding, dilation, groups, activation)
    if not _takes(x, weight, bias, added):
        return definition(*arguments)
    last = torch.channels_last
    layout = last if x.is_contiguous(memory_format=last) else torch.contiguous_format
    x, weight, bias = x.contiguous(memory_format=layout), _contiguous_weight(weight), bias.contiguous()
    others = (weight, bias, padding, stride, dilation, groups)
    if added is None:
        return _operator().default(x, *others, *_POST_OPERATIONS[activation])
    if activation > 1 or not added.is_contiguous(memory_format=last):
        return definition(*arguments)  # oneDNN's sum in this memory format fails in bfloat16
    if tuple(added.shape) != (len(x), len(weight), *convolution_size(x, weight.shape[2:], stride, padding, dilation)):
        return definition(*arguments)  # broadcasts, or raises torch's own error
    return _operator().binary(x, added, *others, "add", 1.0, "relu" if activation else None, [], "")


def definition(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    added: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    activation: int,
) -> Tensor:
    """Compute `dense_convolution` in plain PyTorch: any device, any type, differentiable."""
    y = F.conv2d(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), groups)
    y = y if added is None else y + added
    return ACTIVATION_FUNCTIONS[activation](y)


_POST_OPERATIONS: Final[tuple[tuple[str, list[float], str], ...]] = (
    ("none", [], ""),
    ("relu", [], ""),
    ("hardtanh", [0.0, 6.0], ""),
    ("swish", [], ""),
    ("hardswish", [], ""),
    ("gelu", [], "none"),
)
"""oneDNN's names of `ACTIVATIONS`, with their numbers and algorithm."""


@cache
def _operator() -> Any:
    """Return oneDNN's convolution with post-operations. None if this PyTorch has none."""
    found = getattr(torch.ops.mkldnn, "_convolution_pointwise", None) if torch.backends.mkldnn.is_available() else None
    return found if found is not None and {"default", "binary"} <= set(found.overloads()) else None


@cache
def _has_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16 on this CPU."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and supported()


def _takes(*tensors: Tensor | None) -> bool:
    x = tensors[0]
    assert x is not None
    return bool(
        _operator() is not None
        and torch.backends.mkldnn.enabled
        and x.dtype in FEATURE_MAP_DTYPES
        and all(
            t is None or (type(t) in (Tensor, nn.Parameter) and t.is_cpu and t.dtype is x.dtype and t.numel() > 0)
            for t in tensors
        )
        and x.ndim == 4
        and not torch.is_autocast_enabled("cpu")
        and eager(*tensors)
        and not needs_gradient(tensors)
        and (x.dtype is torch.float32 or _has_bfloat16())
    )


def _contiguous_weight(weight: Tensor) -> Tensor:
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return weight if last or weight.is_contiguous() else weight.contiguous()
