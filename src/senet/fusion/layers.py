"""The layers of an optimized network: convolutions with folded norms, and residual blocks in few passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from senet.nn import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized
from senet.nn.precomputed import PrecomputedGate
from senet.ops import GATE_NUMBERS, choose
from senet.ops.arguments import needs_gradient
from senet.ops.dense_convolution import dense_convolution
from senet.ops.packed_convolution import SIGNATURE, definition, pack, packed_convolution, unpack
from senet.ops.scale_add_relu import SIGNATURE as RESCALE
from senet.ops.scale_add_relu import scale_add_relu_

__all__ = ["DenseConv", "FusedBlock", "FusedBranch", "FusedConv", "Geometry", "PackedConv", "fused_conv"]

MIN_PACKED_ELEMENTS = 1 << 14
"""Smallest number of elements of a packed weight. oneDNN reorders smaller ones in negligible time."""


@dataclass(frozen=True)
class Geometry:
    """The geometry of a convolution. The fields are those of `nn.Conv2d`, with zero padding."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether it is a 1x1 convolution of stride 1, without padding or groups."""
        return (self.kernel_size, self.stride, self.padding, self.groups) == ((1, 1), (1, 1), (0, 0), 1)


class FusedConv(Optimized, ABC):
    """A convolution with the norm after it folded in, and possibly the ReLU after the norm.

    With one feature map it computes `act(conv(x))`, with two `relu(conv(x) + added)`.

    Args:
        bias: (C,).
        geometry: The geometry of the convolution.
        relu: Whether a ReLU follows.
    """

    def __init__(self, bias: Tensor, geometry: Geometry, *, relu: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.geometry, self.relu = geometry, relu

    @property
    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight in PyTorch's layout, (C, I / groups, Y, X)."""

    @abstractmethod
    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""

    def dense(self) -> DenseConv:
        """Return an equal layer with its weight in PyTorch's layout."""
        return DenseConv(self.dense_weight.detach().contiguous(), self.bias.detach(), self.geometry, relu=self.relu)

    def extra_repr(self) -> str:
        """Return the options that `print(layer)` shows."""
        cout, cin, *kernel = self.dense_weight.shape
        cin *= self.geometry.groups
        return f"{cin}, {cout}, kernel={tuple(kernel)}, stride={self.geometry.stride}, relu={self.relu}"


@final
class DenseConv(FusedConv):
    """A `FusedConv` with its weight in PyTorch's layout.

    Args:
        weight: (C, I / groups, Y, X).
        bias: As in `FusedConv`.
        geometry: As in `FusedConv`.
        relu: As in `FusedConv`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, geometry: Geometry, *, relu: bool) -> None:
        super().__init__(bias, geometry, relu=relu)
        self.weight = nn.Parameter(weight, requires_grad=False)

    @property
    def dense_weight(self) -> Tensor:
        """The weight."""
        return self.weight

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""
        g, relu = self.geometry, self.relu or added is not None
        return dense_convolution(
            x, self.weight, self.bias, added, g.stride, g.padding, g.dilation, g.groups, relu
        )  # fmt: skip


@final
class PackedConv(FusedConv):
    """A `FusedConv` with its weight packed for the compiled kernel, as the parameter `panels`.

    Args:
        weight: (C, I, Y, X), of one group.
        bias: As in `FusedConv`.
        geometry: As in `FusedConv`.
        relu: As in `FusedConv`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, geometry: Geometry, *, relu: bool) -> None:
        super().__init__(bias, geometry, relu=relu)
        self.panels = nn.Parameter(pack(weight), requires_grad=False)
        self.channels = len(weight)  # the last panel is padded, so its shape doesn't contain this number

    @property
    def dense_weight(self) -> Tensor:
        """The unpacked weight."""
        return unpack(self.panels, self.channels)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""
        return self._computed(x, added, None)

    def gated(self, x: Tensor, gate: PrecomputedGate, added: Tensor) -> Tensor:
        """Compute `relu(gate(x) * conv(x) + added)` for a gate in `GATE_NUMBERS`: (N, I, H, W) -> (N, C, H, W)."""
        return self._computed(x, added, gate)

    def _computed(self, x: Tensor, added: Tensor | None, gate: PrecomputedGate | None) -> Tensor:
        if self.bias.shape != (self.channels,):
            raise ValueError(f"bias has shape {tuple(self.bias.shape)}; it must be ({self.channels},)")
        w1 = b1 = w2 = b2 = None
        number = 0
        if gate is not None:
            w1, b1, w2, b2 = gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias
            number = GATE_NUMBERS[gate.activate]
        tensors = (x, self.panels, self.bias, added, w1, b1, w2, b2)
        g, relu = self.geometry, self.relu or added is not None
        fits = x.dtype is torch.float32 and not torch.is_autocast_enabled("cpu") and SIGNATURE.takes(tensors)
        fast = fits and choose().library is not None and not needs_gradient(tensors)
        compute = packed_convolution if fast else definition
        return compute(
            x, self.panels, self.bias, added, w1, b1, w2, b2, g.stride, g.padding, g.dilation, relu, number
        )  # fmt: skip


def fused_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d, *, relu: bool) -> FusedConv:
    """Fold the norm after a convolution into it, computed in float64."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
    scale, offset = _affine(norm)
    weight, bias = weight * scale[:, None, None, None], bias * scale + offset
    assert not isinstance(conv.padding, str)
    geometry = Geometry(conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    like = conv.weight
    weight, bias = weight.to(like.dtype), bias.to(like.dtype)
    packs = conv.groups == 1 and like.is_cpu and like.dtype is torch.float32 and like.numel() >= MIN_PACKED_ELEMENTS
    if packs and choose().library is not None:
        return PackedConv(weight, bias, geometry, relu=relu)
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return DenseConv(weight.contiguous(memory_format=layout), bias, geometry, relu=relu)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and offset of a norm in evaluation mode, (C,) each, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    offset = -norm.running_mean.double() * scale
    return scale, offset if norm.bias is None else offset + norm.bias.detach().double()


@final
class FusedBranch(Optimized):
    """A residual branch of fused convolutions.

    Args:
        body: All but the last convolution.
        last: The last convolution.
    """

    def __init__(self, body: nn.Module, last: FusedConv) -> None:
        super().__init__()
        self.body = body
        self.last = last

    def forward(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        x = self.body(x)
        return self.last(inner(x) if inner else x)


@final
class FusedBlock(Optimized):
    """A residual block, `relu(shortcut(x) + se(branch(x)))`, with few passes over the feature maps.

    If the branch ends in a 1x1 convolution, the gate is computed before it (`PrecomputedGate`), and scale, sum and ReLU
    are fused into it. Otherwise the gate is computed from the branch's output. Layers with hooks run one by one.

    Args:
        branch: The branch.
        shortcut: The identity or a projection.
        se: The attention, or None in a plain network.
    """

    def __init__(self, branch: FusedBranch, shortcut: nn.Module, se: SqueezeExcite | None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.se: nn.Module | None = se
        if se is not None and branch.last.geometry.pointwise:
            self.se = PrecomputedGate(se, branch.last.dense_weight, branch.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut(x)
        if not untouched(self.branch):
            return self._one_by_one(x, shortcut)
        h = self.branch.body(x)
        last, se = self.branch.last, self.se
        if se is None:
            return last(h, shortcut)
        if isinstance(se, PrecomputedGate):
            without_hooks = untouched(last, se, se.fc1, se.fc2)
            if isinstance(last, PackedConv) and se.activate in GATE_NUMBERS and without_hooks:
                return last.gated(h, se, shortcut)
            return _rescaled(last(h), se(h), shortcut, in_place=_returns_new_tensor(last))
        y = last(h)
        if not isinstance(se, SqueezeExcite) or not untouched(se):
            return torch.relu(se(y) + shortcut)
        return _rescaled(y, se.gate(y), shortcut, in_place=_returns_new_tensor(last))

    def _one_by_one(self, x: Tensor, shortcut: Tensor) -> Tensor:
        inner: list[Tensor] = []

        def capture(h: Tensor) -> Tensor:
            inner.append(h)
            return h

        y = self.branch(x, capture)
        if isinstance(self.se, PrecomputedGate):
            return torch.relu(self.se(inner[0]) * y + shortcut)
        return torch.relu((y if self.se is None else self.se(y)) + shortcut)


def _returns_new_tensor(layer: nn.Module) -> bool:
    """Whether no other module can hold the layer's output."""
    return isinstance(layer, FusedConv) and untouched(layer)


def _rescaled(y: Tensor, gate: Tensor, shortcut: Tensor, *, in_place: bool) -> Tensor:
    """Compute `relu(gate * y + shortcut)` with a gate (N, C, 1, 1), overwriting y if `in_place`."""
    tensors = (y, gate.flatten(1).float() if gate.dtype is torch.bfloat16 else gate.flatten(1), shortcut)
    if in_place and RESCALE.takes(tensors) and not torch.compiler.is_compiling() and not needs_gradient(tensors):
        scale_add_relu_(*tensors)
        return y
    return torch.relu(y * gate + shortcut)
