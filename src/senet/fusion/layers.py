"""The layers of an optimized network: convolutions that took in their norms, and residual blocks in few passes."""

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

LEAST_PACKED = 1 << 14
"""Numbers in a weight from which on it is packed: to bring a smaller one into oneDNN's layout takes no time."""


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over a feature map; fields as those of `nn.Conv2d`, padding with zeros."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def pointwise(self) -> bool:
        """Whether it mixes the channels of each pixel and nothing else."""
        return (self.kernel_size, self.stride, self.padding, self.groups) == ((1, 1), (1, 1), (0, 0), 1)


class FusedConv(Optimized, ABC):
    """A convolution that took in the norm behind it, and perhaps the ReLU behind that.

    Called with one feature map it computes `act(conv(x))`, with two `relu(conv(x) + added)`.

    Args:
        bias: (C,).
        geometry: Of the convolution.
        relu: A ReLU follows.
    """

    def __init__(self, bias: Tensor, geometry: Geometry, *, relu: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.geometry, self.relu = geometry, relu

    @property
    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight, (C, I / groups, Y, X)."""

    @abstractmethod
    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, I, H, W) -> (N, C, H', W')."""

    def dense(self) -> DenseConv:
        """The same with its weight in PyTorch's own layout."""
        return DenseConv(self.dense_weight.detach().contiguous(), self.bias.detach(), self.geometry, relu=self.relu)

    def extra_repr(self) -> str:
        """What `print` shows."""
        cout, cin, *kernel = self.dense_weight.shape
        cin *= self.geometry.groups
        return f"{cin}, {cout}, kernel={tuple(kernel)}, stride={self.geometry.stride}, relu={self.relu}"


@final
class DenseConv(FusedConv):
    """`FusedConv` of a weight in PyTorch's own layout.

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
        """(N, I, H, W) -> (N, C, H', W')."""
        g, relu = self.geometry, self.relu or added is not None
        return dense_convolution(
            x, self.weight, self.bias, added, g.stride, g.padding, g.dilation, g.groups, relu
        )  # fmt: skip


@final
class PackedConv(FusedConv):
    """`FusedConv` of a weight packed for the compiled kernel; an ordinary parameter, `panels`.

    Args:
        weight: (C, I, Y, X), of one group.
        bias: As in `FusedConv`.
        geometry: As in `FusedConv`.
        relu: As in `FusedConv`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, geometry: Geometry, *, relu: bool) -> None:
        super().__init__(bias, geometry, relu=relu)
        self.panels = nn.Parameter(pack(weight), requires_grad=False)
        self.channels = len(weight)  # the last panel is filled up, so its shape doesn't say

    @property
    def dense_weight(self) -> Tensor:
        """The weight, unpacked."""
        return unpack(self.panels, self.channels)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(N, I, H, W) -> (N, C, H', W')."""
        return self._computed(x, added, None)

    def gated(self, x: Tensor, gate: PrecomputedGate, added: Tensor) -> Tensor:
        """`relu(gate(x) * conv(x) + added)`, of a gate in `GATE_NUMBERS`; (N, I, H, W) -> (N, C, H, W)."""
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
    """A convolution with the norm behind it in one, computed in float64."""
    weight = conv.weight.detach().double()
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().double()
    scale, offset = _affine(norm)
    weight, bias = weight * scale[:, None, None, None], bias * scale + offset
    assert not isinstance(conv.padding, str)
    geometry = Geometry(conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    like = conv.weight
    weight, bias = weight.to(like.dtype), bias.to(like.dtype)
    packs = conv.groups == 1 and like.is_cpu and like.dtype is torch.float32 and like.numel() >= LEAST_PACKED
    if packs and choose().library is not None:
        return PackedConv(weight, bias, geometry, relu=relu)
    last = like.is_contiguous(memory_format=torch.channels_last)
    kept = torch.channels_last if last else torch.contiguous_format
    return DenseConv(weight.contiguous(memory_format=kept), bias, geometry, relu=relu)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and offset of a norm that evaluates, (C,) each, float64."""
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
        last: The last one.
    """

    def __init__(self, body: nn.Module, last: FusedConv) -> None:
        super().__init__()
        self.body = body
        self.last = last

    def forward(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        x = self.body(x)
        return self.last(inner(x) if inner else x)


@final
class FusedBlock(Optimized):
    """A residual block, `relu(shortcut(x) + se(branch(x)))`, in as few passes over the feature maps as it takes.

    Behind a 1x1 convolution the gate is computed before it (`PrecomputedGate`), and scale, sum and ReLU belong to the
    convolution. Behind a larger one the gate is computed from its output, as everywhere. Layers that somebody watches
    are called one by one.

    Args:
        branch: The branch.
        shortcut: The identity or a projection.
        se: The attention; None in a plain network.
    """

    def __init__(self, branch: FusedBranch, shortcut: nn.Module, se: SqueezeExcite | None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.se: nn.Module | None = se
        if se is not None and branch.last.geometry.pointwise:
            self.se = PrecomputedGate(se, branch.last.dense_weight, branch.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut(x)
        if not untouched(self.branch):
            return self._one_by_one(x, shortcut)
        h = self.branch.body(x)
        last, se = self.branch.last, self.se
        if se is None:
            return last(h, shortcut)
        if isinstance(se, PrecomputedGate):
            unwatched = untouched(last, se, se.fc1, se.fc2)
            if isinstance(last, PackedConv) and se.activate in GATE_NUMBERS and unwatched:
                return last.gated(h, se, shortcut)
            return _rescaled(last(h), se(h), shortcut, ours=_gives_new_map(last))
        y = last(h)
        if not isinstance(se, SqueezeExcite) or not untouched(se):
            return torch.relu(se(y) + shortcut)
        return _rescaled(y, se.gate(y), shortcut, ours=_gives_new_map(last))

    def _one_by_one(self, x: Tensor, shortcut: Tensor) -> Tensor:
        inner: list[Tensor] = []

        def seen(h: Tensor) -> Tensor:
            inner.append(h)
            return h

        y = self.branch(x, seen)
        if isinstance(self.se, PrecomputedGate):
            return torch.relu(self.se(inner[0]) * y + shortcut)
        return torch.relu((y if self.se is None else self.se(y)) + shortcut)


def _gives_new_map(layer: nn.Module) -> bool:
    """Whether nobody else has what the layer returns."""
    return isinstance(layer, FusedConv) and untouched(layer)


def _rescaled(y: Tensor, gate: Tensor, shortcut: Tensor, *, ours: bool) -> Tensor:
    """`relu(gate * y + shortcut)` with a gate (N, C, 1, 1), written over y if it is `ours` alone."""
    tensors = (y, gate.flatten(1).float() if gate.dtype is torch.bfloat16 else gate.flatten(1), shortcut)
    if ours and RESCALE.takes(tensors) and not torch.compiler.is_compiling() and not needs_gradient(tensors):
        scale_add_relu_(*tensors)
        return y
    return torch.relu(y * gate + shortcut)
