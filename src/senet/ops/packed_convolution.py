"""`senet::packed_convolution`: a convolution with a packed weight, fused with gate, residual sum and activation.

The packed weight is an ordinary tensor, and the only copy. It moves, loads and saves like any parameter. Its layout is
specific to this package, and independent of the machine and the image size.

After a 1x1 convolution the gate of Squeeze-and-Excitation is known before the convolution runs, because the squeeze is
linear and commutes with it. The operator is for inference and has no derivative.

Source: Hu et al. 2018, eqs. 2-4 and Fig. 3; the authors fuse scale and addition in inference ("Axpy").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.activation_functions import ACTIVATION_FUNCTIONS, ACTIVATIONS
from senet.ops.arguments import Signature, convolution_size, is_observed, loop_over_batch
from senet.ops.cpu import choose
from senet.ops.cpu.convolution import convolve, packed_layer
from senet.ops.excitation import Excitation, excite
from senet.ops.gate_functions import GATE_FUNCTIONS

__all__ = ["PANEL", "SIGNATURE", "definition", "pack", "packed_convolution", "unpack"]

PANEL: Final = 32
"""Output channels per panel of the packed weight. Equals `PANEL` of convolution.h."""

SIGNATURE: Final = Signature(
    "packed_convolution",
    (
        ("x", "NIHW"),
        ("panels", "PYXIL"),
        ("bias", "C"),
        ("added", "NChw"),
        ("w1", "KI"),
        ("b1", "K"),
        ("w2", "CK"),
        ("b2", "C"),
        ("factors", "NI"),
    ),
    optional=frozenset(("added", "w1", "b1", "w2", "b2", "factors")),
)
Pair = Sequence[int]


def pack(weight: Tensor) -> Tensor:
    """Pack a convolution's weight into panels.

    Args:
        weight: (C, I, Y, X), of one group.

    Returns:
        (ceil(C / PANEL), Y, X, I, PANEL). Channels beyond C are zero.
    """
    filled = F.pad(weight.permute(2, 3, 1, 0), (0, -len(weight) % PANEL))
    return filled.unflatten(3, (-1, PANEL)).permute(3, 0, 1, 2, 4).contiguous()


def unpack(panels: Tensor, channels: int) -> Tensor:
    """Return the weight, (C, I, Y, X), from the panels of `pack`."""
    return panels.permute(0, 4, 3, 1, 2).flatten(0, 1)[:channels]


def packed_convolution(
    x: Tensor,
    panels: Tensor,
    bias: Tensor,
    added: Tensor | None,
    w1: Tensor | None,
    b1: Tensor | None,
    w2: Tensor | None,
    b2: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    activation: int,
    gate: int,
    factors: Tensor | None = None,
) -> Tensor:
    """Return `act(s * (conv(factors * x) + bias) + added)`, with `s = gate(w2 relu(w1 mean(x) + b1) + b2)`.

    Args:
        x: (N, I, H, W). All tensors are float32.
        panels: The packed weight, see `pack`.
        bias: (C,).
        added: (N, C, H', W'). None is zero.
        w1: (K, I), weight of the gate's first layer, merged with the convolution. It reads the mean of x. None means
            no gate. A gate requires a 1x1 kernel of stride 1.
        b1: (K,) or None.
        w2: (C, K).
        b2: (C,) or None.
        stride: Stride of the convolution, two numbers.
        padding: Zero padding, two numbers.
        dilation: Dilation of the kernel, two numbers.
        activation: Number of the activation in `ACTIVATIONS`. 0 is none, 1 the ReLU.
        gate: Number of the gate's function in `GATE_FUNCTIONS`.
        factors: (N, I), one factor per channel of x. None is 1. Not together with a gate.

    Returns:
        (N, C, H', W'), channels_last.

    Raises:
        ValueError: Sizes, types or devices don't match.

    Example:
        >>> import torch
        >>> from senet.ops import packed_convolution
        >>> from senet.ops.packed_convolution import pack
        >>> x, weight, bias = torch.rand(1, 8, 6, 6), torch.rand(16, 8, 3, 3), torch.rand(16)
        >>> no_gate, geometry = (None, None, None, None), ((1, 1), (0, 0), (1, 1))
        >>> y = packed_convolution(x, pack(weight), bias, None, *no_gate, *geometry, activation=0, gate=0)
        >>> torch.allclose(y, torch.nn.functional.conv2d(x, weight, bias), atol=1e-4)
        True
    """
    arguments = (x, panels, bias, added, w1, b1, w2, b2, stride, padding, dilation, activation, gate, factors)
    if is_observed():
        return torch.ops.senet.packed_convolution(*arguments)
    return _compute(*arguments)


def definition(x: Tensor, panels: Tensor, bias: Tensor, added: Tensor | None, *others: Any) -> Tensor:
    """Compute the operator in plain PyTorch: any device, any type, differentiable."""
    w1, b1, w2, b2, stride, padding, dilation, activation, gate, *rest = others
    if rest and rest[0] is not None:
        x = x * rest[0][:, :, None, None]
    y = F.conv2d(x, unpack(panels, len(bias)), bias, stride, padding, dilation)
    if w1 is not None:
        hidden = torch.relu(F.linear(x.mean((2, 3)), w1, b1))
        y = y * GATE_FUNCTIONS[gate](F.linear(hidden, w2, b2))[:, :, None, None]
    if added is not None:
        y = y + added
    return ACTIVATION_FUNCTIONS[activation](y)


def _output(x: Tensor, panels: Tensor, bias: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    sizes = convolution_size(x, panels.shape[1:3], stride, padding, dilation)
    return torch.empty((len(x), len(bias), *sizes), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _check(
    tensors: Sequence[Tensor | None], stride: Pair, padding: Pair, dilation: Pair, activation: int, gate: int
) -> None:
    x, panels, bias, _, w1, b1, w2, b2, factors = tensors
    SIGNATURE.check(tensors)
    assert x is not None
    assert panels is not None
    assert bias is not None
    if x.dtype is not torch.float32:
        raise ValueError(f"packed_convolution: x is {x.dtype}; it must be float32")
    if panels.shape[4] != PANEL or panels.shape[0] != -(-len(bias) // PANEL):
        raise ValueError(f"packed_convolution: panels of shape {tuple(panels.shape)} don't match {len(bias)} channels")
    if any(len(pair) != 2 for pair in (stride, padding, dilation)) or min(*stride, *dilation) < 1 or min(*padding) < 0:
        raise ValueError(f"packed_convolution: stride={stride}, padding={padding}, dilation={dilation} are invalid")
    if not 0 <= activation < len(ACTIVATION_FUNCTIONS):
        raise ValueError(f"packed_convolution: activation={activation} is out of range")
    SIGNATURE.check_gate(w1, b1, w2, b2, gate)
    if w1 is not None and factors is not None:
        raise ValueError("packed_convolution: a gate and factors exclude each other")
    pointwise = tuple(panels.shape[1:3]) == (1, 1) and tuple(stride) == (1, 1) and tuple(padding) == (0, 0)
    if w1 is not None and not pointwise:
        raise ValueError("packed_convolution: a gate requires a 1x1 kernel of stride 1 without padding")


def _compute(*arguments: Any) -> Tensor:
    stride, padding, dilation, activation, gate = arguments[8:13]
    tensors = (*arguments[:8], arguments[13] if len(arguments) > 13 else None)  # the dispatcher drops a default
    _check(tensors, stride, padding, dilation, activation, gate)
    x, panels, bias, added, w1, b1, w2, b2, factors = tensors
    if choose().library is None or not x.numel() or not len(bias) or 0 in panels.shape:
        return definition(*arguments).contiguous(memory_format=torch.channels_last)
    if min(convolution_size(x, panels.shape[1:3], stride, padding, dilation)) < 1:
        return definition(*arguments)  # raises torch's own error: the kernel is larger than the image
    y = _output(x, panels, bias, stride, padding, dilation)
    if added is not None and added.shape != y.shape:
        raise ValueError(f"packed_convolution: added has shape {tuple(added.shape)}; it must be {tuple(y.shape)}")
    scale = None
    if w1 is not None and w2 is not None:
        scale = excite(x, Excitation(w1, b1, w2, b2, ACTIVATIONS.index("relu"), gate)).contiguous()
    parameters = (panels.contiguous(), bias.contiguous(), None, None, None, None)
    layer = packed_layer(len(bias), x.shape[1], parameters, (*stride, *padding, *dilation, activation))
    convolve(layer, x, y, factors=None if factors is None else factors.contiguous(), scale=scale, added=added)
    return y


_operator = torch.library.custom_op(
    "senet::packed_convolution",
    _compute,
    mutates_args=(),
    schema=torch.library.infer_schema(packed_convolution, mutates_args=()),
)


@_operator.register_fake
def _(x: Tensor, panels: Tensor, bias: Tensor, *others: Any) -> Tensor:
    return _output(x, panels, bias, *others[5:8])


@torch.library.register_vmap("senet::packed_convolution")
def _(info: Any, dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
    return torch.stack(loop_over_batch(torch.ops.senet.packed_convolution, info, dims, arguments)), 0
