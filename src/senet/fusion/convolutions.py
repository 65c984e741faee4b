"""The convolutions of an optimized network, with the norm and the activation after them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, final

import torch
from torch import Tensor, nn

from senet.fusion.lazy import ScaledFeatureMap
from senet.nn.optimized import Optimized
from senet.nn.precision import in_float64
from senet.ops import choose
from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.arguments import convolution_size, needs_gradient
from senet.ops.cpu.convolution import convolve, packed_layer
from senet.ops.dense_convolution import dense_convolution
from senet.ops.depthwise_convolution import definition as definition_of_depthwise
from senet.ops.depthwise_convolution import packed_layer as depthwise_layer
from senet.ops.depthwise_convolution import run as run_depthwise
from senet.ops.excitation import Excitation, excite, layers_fit, rescale
from senet.ops.inference import Prepared, takes
from senet.ops.packed_convolution import PANEL, definition, pack, unpack
from senet.ops.scale_add_relu import SIGNATURE as RESCALE
from senet.ops.scale_add_relu import scale_add_relu_
from senet.ops.tiled_convolution import available, pack_tiles, unpack_tiles
from senet.ops.tiled_convolution import convolve as convolve_tiles
from senet.ops.tiled_convolution import packed_layer as packed_tiles

__all__ = [
    "DenseConv",
    "DepthwiseConv",
    "FusedConv",
    "Geometry",
    "PackedConv",
    "TiledConv",
    "fused_conv",
    "rescaled",
]

RELU: Final = ACTIVATIONS.index("relu")

MIN_PACKED_CHANNELS: Final = 8
"""Smallest number of input channels of a packed weight. For fewer, oneDNN is faster."""

MIN_TILED_CHANNELS: Final = 16
"""Smallest number of input channels of a tiled weight. Tiles hold 32."""

NO_LAYERS: Final = (None, None, None, None)
"""The parameters of no gate."""


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

    def output_size(self, x: Tensor) -> Sequence[int]:
        """Return height and width of the output. Below 1 if the kernel is larger than the padded input."""
        if self._keeps_size:
            return x.shape[2:]
        return convolution_size(x, self.kernel_size, self.stride, self.padding, self.dilation)

    @cached_property
    def _keeps_size(self) -> bool:
        sizes = zip(self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return all(step == 1 and 2 * pad == dilation * (kernel - 1) for kernel, step, pad, dilation in sizes)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Stride, padding, dilation, two numbers each."""
        return (*self.stride, *self.padding, *self.dilation)


class FusedConv(Optimized, ABC):
    """A convolution with the norm after it folded in, and possibly the activation after the norm.

    With one feature map it computes `act(conv(x))`, with two `relu(conv(x) + added)`.

    Args:
        bias: (C,).
        geometry: The geometry of the convolution.
        activation: Number of the activation in `ACTIVATIONS`.
    """

    def __init__(self, bias: Tensor, geometry: Geometry, *, activation: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.geometry, self.activation = geometry, activation

    @property
    @abstractmethod
    def dense_weight(self) -> Tensor:
        """The weight in PyTorch's layout, (C, I / groups, Y, X)."""

    @abstractmethod
    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""

    def with_means(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output and its means over the positions, (N, C), where they cost nothing."""
        return self(x), None

    def with_gate(self, x: Tensor, layers: Excitation) -> tuple[Tensor, Tensor]:
        """Return the output y, and the gate that the layers compute from the means of y, (N, G)."""
        y, means = self.with_means(x)
        return y, excite(y, layers, means)

    def rescaled(self, x: Tensor, gate: Tensor, added: Tensor) -> Tensor:
        """Compute `relu(gate * y + added)` with the output y without activation, and a gate (N, C)."""
        return rescaled(self(x), gate, added)

    def self_gated(self, x: Tensor, layers: Excitation, added: Tensor | None) -> Tensor:
        """Compute `gate * y`, or `relu(gate * y + added)`, with the gate of the output y: -> (N, C, H', W')."""
        y, means = self.with_means(x)
        if added is None:
            return rescale(y, layers, means, in_place=True)
        return rescaled(y, excite(y, layers, means), added)

    def of_scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """Run the convolution on `factors * x`: (N, I, H, W), (N, I) -> (N, C, H', W')."""
        return self(x * factors[:, :, None, None])

    @property
    def scales_input(self) -> bool:
        """Whether `of_scaled` needs no pass of its own."""
        return False

    def dense(self) -> DenseConv:
        """Return an equal layer with its weight in PyTorch's layout."""
        weight = self.dense_weight.detach().contiguous()
        return DenseConv(weight, self.bias.detach(), self.geometry, activation=self.activation)

    def extra_repr(self) -> str:
        """Return the options that `print(layer)` shows."""
        cout, cin, *kernel = self.dense_weight.shape
        cin *= self.geometry.groups
        options = f"stride={self.geometry.stride}, activation={ACTIVATIONS[self.activation]}"
        return f"{cin}, {cout}, kernel={tuple(kernel)}, {options}"


@final
class DenseConv(FusedConv):
    """A `FusedConv` with its weight in PyTorch's layout.

    Args:
        weight: (C, I / groups, Y, X).
        bias: As in `FusedConv`.
        geometry: As in `FusedConv`.
        activation: As in `FusedConv`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, geometry: Geometry, *, activation: int) -> None:
        super().__init__(bias, geometry, activation=activation)
        self.weight = nn.Parameter(weight, requires_grad=False)

    @property
    def dense_weight(self) -> Tensor:
        """The weight."""
        return self.weight

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""
        g, activation = self.geometry, self.activation if added is None else RELU
        return dense_convolution(
            x, self.weight, self.bias, added, g.stride, g.padding, g.dilation, g.groups, activation
        )  # fmt: skip


@final
class PackedConv(FusedConv):
    """A `FusedConv` with its weight packed for the compiled kernel, as the parameter `panels`.

    Args:
        weight: (C, I, Y, X), of one group.
        bias: As in `FusedConv`.
        geometry: As in `FusedConv`.
        activation: As in `FusedConv`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, geometry: Geometry, *, activation: int) -> None:
        super().__init__(bias, geometry, activation=activation)
        self.panels = nn.Parameter(pack(weight), requires_grad=False)
        self.channels = len(weight)  # the last panel is padded, so its shape doesn't contain this number
        self._prepared = Prepared()

    @property
    def dense_weight(self) -> Tensor:
        """The unpacked weight."""
        return unpack(self.panels, self.channels)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""
        if type(x) is ScaledFeatureMap and added is None:
            return self.of_scaled(x.h, x.gate)
        return self._computed(x, added, None)

    def of_scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """Run the convolution on `factors * x`: (N, I, H, W), (N, I) -> (N, C, H', W')."""
        return self._computed(x, None, factors)

    @property
    def scales_input(self) -> bool:
        """Whether `of_scaled` needs no pass of its own."""
        return True

    def with_gate(self, x: Tensor, layers: Excitation) -> tuple[Tensor, Tensor]:
        """Return the output y, and the gate that the layers compute from the means of y, (N, G)."""
        gate = torch.empty((len(x), len(layers.w2)), dtype=x.dtype, device=x.device)
        y = self._by_kernel(x, self.activation, layers, gate=gate)
        return super().with_gate(x, layers) if y is None else (y, gate)

    def self_gated(self, x: Tensor, layers: Excitation, added: Tensor | None) -> Tensor:
        """Compute `gate * y`, or `relu(gate * y + added)`, with the gate of the output y: -> (N, C, H', W')."""
        y = None
        if len(layers.w2) == self.channels:
            y = self._by_kernel(x, self.activation, layers, last=0 if added is None else RELU, added=added)
        return super().self_gated(x, layers, added) if y is None else y

    def rescaled(self, x: Tensor, gate: Tensor, added: Tensor) -> Tensor:
        """Compute `relu(gate * y + added)` with the output y without activation, and a gate (N, C)."""
        y = self._by_kernel(x, RELU, scale=gate, added=added)
        return super().rescaled(x, gate, added) if y is None else y

    def _computed(self, x: Tensor, added: Tensor | None, factors: Tensor | None) -> Tensor:
        activation = self.activation if added is None else RELU
        y = self._by_kernel(x, activation, factors=factors, added=added)
        if y is not None:
            return y
        panels, bias, g = self.panels, self.bias, self.geometry
        if bias.shape != (self.channels,):
            raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be ({self.channels},)")
        return definition(
            x, panels, bias, added, *NO_LAYERS, g.stride, g.padding, g.dilation, activation, 0, factors
        )  # fmt: skip

    def _by_kernel(
        self,
        x: Tensor,
        activation: int,
        layers: Excitation | None = None,
        *,
        last: int = 0,
        factors: Tensor | None = None,
        scale: Tensor | None = None,
        added: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor | None:
        """Return the output. None if the kernel doesn't take these tensors."""
        if not takes(x, (factors, scale), added=added) or not (factors is None or factors.shape == x.shape[:2]):
            return None
        layer = self._layer(x, activation, layers, last)
        shape = (len(x), self.channels, *self.geometry.output_size(x))
        if layer is None or min(shape) < 1 or not (added is None or added.shape == shape):
            return None
        if scale is not None and scale.shape != shape[:2]:
            return None
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        convolve(layer, x, y, factors=factors, scale=scale, added=added, gate=gate)
        return y

    def _layer(self, x: Tensor, activation: int, layers: Excitation | None, last: int) -> bytes | None:
        """Return the structure for the kernel. None if it doesn't take these parameters."""
        gate, functions = (layers[:4], (*layers[4:], last)) if layers else (NO_LAYERS, (0, 0, 0))
        parameters, inner = (self.panels, self.bias, *gate), x.shape[1]
        key = (inner, activation, functions)
        if not self._prepared.holds(key, parameters):
            if not takes(x, parameters) or not self._match(inner, layers):
                return None
            numbers = (*self.geometry.numbers, activation)
            self._prepared = Prepared(
                key, parameters, packed_layer(self.channels, inner, parameters, numbers, functions)
            )
        return self._prepared.packed

    def _match(self, inner: int, layers: Excitation | None) -> bool:
        """Whether the sizes of all parameters match, so that the kernel reads nothing beside them."""
        return (
            tuple(self.panels.shape) == (-(-self.channels // PANEL), *self.geometry.kernel_size, inner, PANEL)
            and self.bias.shape == (self.channels,)
            and (layers is None or layers_fit(*layers[:4], self.channels, len(layers.w2)))
        )


@final
class TiledConv(FusedConv):
    """A bfloat16 `FusedConv` with its weight packed for the CPU's tile instructions, as the parameter `tiles`.

    Args:
        weight: (C, I, Y, X), of one group.
        bias: As in `FusedConv`.
        geometry: As in `FusedConv`.
        activation: As in `FusedConv`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, geometry: Geometry, *, activation: int) -> None:
        super().__init__(bias, geometry, activation=activation)
        self.tiles = nn.Parameter(pack_tiles(weight), requires_grad=False)
        self.shape = weight.shape
        self._prepared = Prepared()

    @property
    def dense_weight(self) -> Tensor:
        """The unpacked weight."""
        return unpack_tiles(self.tiles, *self.shape[:2])

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""
        activation = self.activation if added is None else RELU
        y = self._by_kernel(x, activation, added=added)
        if y is not None:
            return y
        g, channels = self.geometry, self.shape[0]
        if self.bias.shape != (channels,):
            raise ValueError(f"bias has shape {tuple(self.bias.shape)}; it must be ({channels},)")
        return dense_convolution(
            x, self.dense_weight, self.bias, added, g.stride, g.padding, g.dilation, 1, activation
        )  # fmt: skip

    def with_gate(self, x: Tensor, layers: Excitation) -> tuple[Tensor, Tensor]:
        """Return the output y, and the gate that the layers compute from the means of y, (N, G) in float32."""
        gate = torch.empty((len(x), len(layers.w2)), device=x.device)
        y = self._by_kernel(x, self.activation, layers, gate=gate)
        return super().with_gate(x, layers) if y is None else (y, gate)

    def rescaled(self, x: Tensor, gate: Tensor, added: Tensor) -> Tensor:
        """Compute `relu(gate * y + added)` with the output y without activation, and a gate (N, C)."""
        y = self._by_kernel(x, RELU, scale=gate.float(), added=added)
        return super().rescaled(x, gate, added) if y is None else y

    def _by_kernel(
        self,
        x: Tensor,
        activation: int,
        layers: Excitation | None = None,
        *,
        scale: Tensor | None = None,
        added: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor | None:
        """Return the output. None if the kernel doesn't take these tensors."""
        if not takes(x, (), torch.bfloat16, added) or x.shape[1] != self.shape[1] or not available():
            return None
        layer = self._layer(x, activation, layers)
        shape = (len(x), self.shape[0], *self.geometry.output_size(x))
        if layer is None or min(shape) < 1 or not (added is None or added.shape == shape):
            return None
        if scale is not None and (scale.shape != shape[:2] or not scale.is_contiguous() or needs_gradient((scale,))):
            return None
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        convolve_tiles(layer, x, y, scale=scale, added=added, gate=gate)
        return y

    def _layer(self, x: Tensor, activation: int, layers: Excitation | None) -> bytes | None:
        """Return the structure for the kernel. None if it doesn't take these parameters."""
        gate, functions = (layers[:4], layers[4:]) if layers else (NO_LAYERS, (0, 0))
        parameters, key = (self.tiles, self.bias, *gate), (activation, functions)
        if not self._prepared.holds(key, parameters):
            if not takes(x, parameters, torch.bfloat16) or not self._match(layers):
                return None
            numbers = (*self.geometry.numbers, activation)
            channels, inner = self.shape[:2]
            self._prepared = Prepared(key, parameters, packed_tiles(channels, inner, parameters, numbers, functions))
        return self._prepared.packed

    def _match(self, layers: Excitation | None) -> bool:
        """Whether the sizes of all parameters match, so that the kernel reads nothing beside them."""
        channels, inner, *kernel = self.shape
        return (
            self.tiles.shape == (-(-channels // 32), *kernel, -(-inner // 32), 16, 32, 2)
            and self.bias.shape == (channels,)
            and (layers is None or layers_fit(*layers[:4], channels, len(layers.w2)))
        )


@final
class DepthwiseConv(FusedConv):
    """A depthwise `FusedConv` for the compiled kernel, with its weight as the parameter `taps`, channels last.

    Args:
        weight: (C, 1, Y, X).
        bias: As in `FusedConv`.
        geometry: As in `FusedConv`.
        activation: As in `FusedConv`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, geometry: Geometry, *, activation: int) -> None:
        super().__init__(bias, geometry, activation=activation)
        self.taps = nn.Parameter(weight[:, 0].movedim(0, 2).contiguous(), requires_grad=False)
        self._prepared = Prepared()

    @property
    def dense_weight(self) -> Tensor:
        """The weight in PyTorch's layout."""
        return self.taps.movedim(2, 0)[:, None]

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, C, H, W) -> (N, C, H', W')."""
        if added is not None:
            return torch.relu(self._computed(x, 0, means=False)[0] + added)
        if type(x) is ScaledFeatureMap:
            return self.of_scaled(x.h, x.gate)
        return self._computed(x, self.activation, means=False)[0]

    def with_means(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output and its means over the positions, (N, C)."""
        return self._computed(x, self.activation, means=True)

    def of_scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """Run the convolution on `factors * x`: (N, C, H, W), (N, C) -> (N, C, H', W')."""
        return self._computed(x, self.activation, factors, means=False)[0]

    @property
    def scales_input(self) -> bool:
        """Whether `of_scaled` needs no pass of its own."""
        return True

    def _computed(
        self, x: Tensor, activation: int, factors: Tensor | None = None, *, means: bool
    ) -> tuple[Tensor, Tensor | None]:
        g = self.geometry
        if takes(x, () if factors is None else (factors,)) and (factors is None or factors.shape == x.shape[:2]):
            layer, sizes = self._layer(x, activation), g.output_size(x)
            if layer is not None and min(sizes) > 0:
                return run_depthwise(layer, x, factors, sizes, means=means)
        return definition_of_depthwise(
            x, self.taps, self.bias, g.stride, g.padding, g.dilation, activation, means=means, factors=factors
        )  # fmt: skip

    def _layer(self, x: Tensor, activation: int) -> bytes | None:
        """Return the structure for the kernel. None if it doesn't take these parameters."""
        parameters, key = (self.taps, self.bias), (x.shape[1], activation)
        if not self._prepared.holds(key, parameters):
            c = x.shape[1]
            match = self.taps.shape == (*self.geometry.kernel_size, c) and self.bias.shape == (c,)
            if not match or not takes(x, parameters):
                return None
            packed = depthwise_layer(self.taps, self.bias, (*self.geometry.numbers, activation))
            self._prepared = Prepared(key, parameters, packed)
        return self._prepared.packed


def fused_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, *, activation: int) -> FusedConv:
    """Fold the norm after a convolution into it, computed in float64."""
    weight = in_float64(conv.weight)
    bias = weight.new_zeros(conv.out_channels) if conv.bias is None else in_float64(conv.bias)
    if norm is not None:
        scale, offset = _affine(norm)
        weight, bias = weight * scale[:, None, None, None], bias * scale + offset
    assert not isinstance(conv.padding, str)
    geometry = Geometry(conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    like = conv.weight
    weight, bias = weight.to(like), bias.to(like)
    if like.is_cpu and like.dtype is torch.float32 and choose().library is not None:
        if conv.groups == 1 and conv.in_channels >= MIN_PACKED_CHANNELS:
            return PackedConv(weight, bias, geometry, activation=activation)
        if conv.groups == conv.in_channels == conv.out_channels > 1:
            return DepthwiseConv(weight, bias, geometry, activation=activation)
    tiled = like.dtype is torch.bfloat16 and conv.groups == 1 and conv.in_channels >= MIN_TILED_CHANNELS
    if like.is_cpu and tiled and available():
        return TiledConv(weight, bias, geometry, activation=activation)
    channels_last = like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return DenseConv(weight.contiguous(memory_format=layout), bias, geometry, activation=activation)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return scale and offset of a norm in evaluation mode, (C,) each, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (in_float64(norm.running_var) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * in_float64(norm.weight)
    offset = -in_float64(norm.running_mean) * scale
    return scale, offset if norm.bias is None else offset + in_float64(norm.bias)


def rescaled(y: Tensor, gate: Tensor, shortcut: Tensor) -> Tensor:
    """Compute `relu(gate * y + shortcut)` with a gate (N, C), overwriting y, which nobody else may hold."""
    tensors = (y, gate.float() if y.dtype is torch.bfloat16 else gate, shortcut)
    if RESCALE.takes(tensors) and not torch.compiler.is_compiling() and not needs_gradient(tensors):
        scale_add_relu_(*tensors)
        return y
    return torch.relu(y * gate[:, :, None, None].to(y.dtype) + shortcut)
