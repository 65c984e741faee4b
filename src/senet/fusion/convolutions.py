"""The convolutions of an optimized network, with the norm and the activation after them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from senet.nn.optimized import Optimized
from senet.nn.precision import in_float64
from senet.nn.precomputed import PrecomputedGate
from senet.ops import GATE_NUMBERS, choose
from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.arguments import convolution_size, needs_gradient
from senet.ops.dense_convolution import dense_convolution
from senet.ops.depthwise_convolution import depthwise_convolution
from senet.ops.excitation import Excitation, excite, layers_fit, rescale
from senet.ops.inference import takes
from senet.ops.packed_convolution import PANEL, definition, pack, run, unpack
from senet.ops.scale_add_relu import SIGNATURE as RESCALE
from senet.ops.scale_add_relu import scale_add_relu_
from senet.ops.tiled_convolution import available, pack_tiles, unpack_tiles
from senet.ops.tiled_convolution import run as run_tiles

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

Parameters = Sequence[Tensor | None]
Late = tuple[int, int, int]


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

    @property
    def dense_weight(self) -> Tensor:
        """The unpacked weight."""
        return unpack(self.panels, self.channels)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""
        return self._computed(x, added, None, None)

    def of_scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        """Run the convolution on `factors * x`: (N, I, H, W), (N, I) -> (N, C, H', W')."""
        return self._computed(x, None, None, factors)

    @property
    def scales_input(self) -> bool:
        """Whether `of_scaled` needs no pass of its own."""
        return True

    def self_gated(self, x: Tensor, layers: Excitation, added: Tensor | None) -> Tensor:
        """Compute `gate * y`, or `relu(gate * y + added)`, with the gate of the output y: -> (N, C, H', W')."""
        parameters = (self.panels, self.bias, layers.w1, layers.b1, layers.w2, layers.b2, None)
        late = (1, layers.activation, 0 if added is None else RELU)
        y = self._by_kernel(x, added, parameters, self.activation, layers.gate, late)
        return super().self_gated(x, layers, added) if y is None else y

    def gated(self, x: Tensor, gate: PrecomputedGate, added: Tensor) -> Tensor:
        """Compute `relu(gate(x) * conv(x) + added)` for a gate in `GATE_NUMBERS`: (N, I, H, W) -> (N, C, H, W)."""
        return self._computed(x, added, gate, None)

    def _computed(
        self, x: Tensor, added: Tensor | None, gate: PrecomputedGate | None, factors: Tensor | None
    ) -> Tensor:
        panels, bias, g = self.panels, self.bias, self.geometry
        if bias.shape != (self.channels,):
            raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be ({self.channels},)")
        w1 = b1 = w2 = b2 = None
        number, activation = 0, self.activation if added is None else RELU
        if gate is not None:
            w1, b1, w2, b2 = gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias
            number = GATE_NUMBERS[gate.activate]
        y = self._by_kernel(x, added, (panels, bias, w1, b1, w2, b2, factors), activation, number, (0, RELU, 0))
        if y is not None:
            return y
        return definition(
            x, panels, bias, added, w1, b1, w2, b2, g.stride, g.padding, g.dilation, activation, number, factors
        )  # fmt: skip

    def _by_kernel(
        self, x: Tensor, added: Tensor | None, parameters: Parameters, activation: int, gate: int, late: Late
    ) -> Tensor | None:
        """Return the output. None if the kernel doesn't take these tensors."""
        if not takes(x, parameters) or not (added is None or takes(added, ())):
            return None
        g = self.geometry
        sizes = convolution_size(x, g.kernel_size, g.stride, g.padding, g.dilation)
        shape = (len(x), self.channels, *sizes)
        if min(sizes) < 1 or not (added is None or added.shape == shape):
            return None
        if not self._match(x, parameters, late=late[0] != 0):
            return None
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        run(y, x, added, parameters, (*g.stride, *g.padding, *g.dilation, activation), gate, late)
        return y

    def _match(self, x: Tensor, parameters: Parameters, *, late: bool) -> bool:
        """Whether the sizes of all parameters match, so that the kernel reads nothing beside them."""
        panels, bias, w1, b1, w2, b2, factors = parameters
        inner, channels = x.shape[1], self.channels
        assert panels is not None
        assert bias is not None
        return bool(
            tuple(panels.shape) == (-(-channels // PANEL), *self.geometry.kernel_size, inner, PANEL)
            and bias.shape == (channels,)
            and (factors is None or factors.shape == (len(x), inner))
            and (w1 is None or (w2 is not None and layers_fit(w1, b1, w2, b2, channels if late else inner, channels)))
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

    @property
    def dense_weight(self) -> Tensor:
        """The unpacked weight."""
        return unpack_tiles(self.tiles, *self.shape[:2])

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, I, H, W) -> (N, C, H', W')."""
        return self._computed(x, added, None)

    def gated(self, x: Tensor, gate: PrecomputedGate, added: Tensor) -> Tensor:
        """Compute `relu(gate(x) * conv(x) + added)` for a gate in `GATE_NUMBERS`: (N, I, H, W) -> (N, C, H, W)."""
        return self._computed(x, added, gate)

    def _computed(self, x: Tensor, added: Tensor | None, gate: PrecomputedGate | None) -> Tensor:
        g, channels = self.geometry, self.shape[0]
        layers: Parameters = (None,) * 4
        if gate is not None:
            layers = (gate.fc1.weight, gate.fc1.bias, gate.fc2.weight, gate.fc2.bias)
        parameters = (self.tiles, self.bias, *layers)
        activation = self.activation if added is None else RELU
        if available() and self._takes(x, added, parameters):
            sizes = convolution_size(x, g.kernel_size, g.stride, g.padding, g.dilation)
            shape = (len(x), channels, *sizes)
            if min(sizes) > 0 and (added is None or added.shape == shape):
                y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
                number = 0 if gate is None else GATE_NUMBERS[gate.activate]
                run_tiles(y, x, added, parameters, (*g.stride, *g.padding, *g.dilation, activation), number)
                return y
        if self.bias.shape != (channels,):
            raise ValueError(f"bias has shape {tuple(self.bias.shape)}; it must be ({channels},)")
        if gate is None:
            return dense_convolution(
                x, self.dense_weight, self.bias, added, g.stride, g.padding, g.dilation, 1, activation
            )
        y = dense_convolution(x, self.dense_weight, self.bias, None, g.stride, g.padding, g.dilation, 1, 0)
        assert added is not None
        return torch.relu(y * gate(x) + added)

    def _takes(self, x: Tensor, added: Tensor | None, parameters: Parameters) -> bool:
        """Whether types and sizes of all tensors match, so that the kernel reads nothing beside them."""
        tiles, bias, w1, b1, w2, b2 = parameters
        channels, inner, *kernel = self.shape
        if not takes(x, parameters, torch.bfloat16) or x.shape[1] != inner:
            return False
        assert tiles is not None
        assert bias is not None
        return bool(
            (added is None or takes(added, (), torch.bfloat16))
            and tiles.shape == (-(-channels // 32), *kernel, -(-inner // 32), 16, 32, 2)
            and bias.shape == (channels,)
            and (w1 is None or (w2 is not None and layers_fit(w1, b1, w2, b2, inner, channels)))
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

    @property
    def dense_weight(self) -> Tensor:
        """The weight in PyTorch's layout."""
        return self.taps.movedim(2, 0)[:, None]

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the convolution: (N, C, H, W) -> (N, C, H', W')."""
        if added is not None:
            return torch.relu(self._computed(x, 0, means=False)[0] + added)
        return self._computed(x, self.activation, means=False)[0]

    def with_means(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the output and its means over the positions, (N, C)."""
        return self._computed(x, self.activation, means=True)

    def _computed(self, x: Tensor, activation: int, *, means: bool) -> tuple[Tensor, Tensor | None]:
        g = self.geometry
        return depthwise_convolution(
            x, self.taps, self.bias, g.stride, g.padding, g.dilation, activation, means=means
        )  # fmt: skip


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
    tensors = (y, gate.float() if gate.dtype is torch.bfloat16 else gate, shortcut)
    if RESCALE.takes(tensors) and not torch.compiler.is_compiling() and not needs_gradient(tensors):
        scale_add_relu_(*tensors)
        return y
    return torch.relu(y * gate[:, :, None, None] + shortcut)
