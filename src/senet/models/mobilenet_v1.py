"""MobileNet v1, plain and with attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

from torch import Tensor, nn

from senet.errors import UnknownNameError
from senet.models._scale import check_depths, scaled
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stages import ConvNet, conv_norm_act
from senet.nn import SE

__all__ = ["VARIANTS", "MobileNetSpec", "SeparableBlock"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "relu6": nn.ReLU6}


@final
class SeparableBlock(nn.Module):
    """A separable convolution with attention: `se(pointwise(depthwise(x)))` (Howard et al. 2017, Fig. 3 right).

    Both convolutions have a batch norm and an activation. With the placement "conv3x3" the attention comes between
    them, after the depthwise one: `pointwise(se(depthwise(x)))`, as in MobileNetV3.

    Args:
        block: Its shape. The stride belongs to the depthwise convolution.
        attention: The attention, or the identity in a plain network.
        act: The activation after both norms.
        placement: "standard" or "conv3x3".
    """

    def __init__(
        self, block: BlockShape, attention: nn.Module, act: type[nn.Module], placement: str = "standard"
    ) -> None:
        super().__init__()
        width = block.in_channels
        self.depthwise = conv_norm_act(width, width, 3, stride=block.stride, groups=width, act=act)
        self.pointwise = conv_norm_act(width, block.out_channels, 1, act=act)
        self.se = attention
        self.placement = placement

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        if self.placement == "conv3x3":
            return self.pointwise(self.se(self.depthwise(x)))
        return self.se(self.pointwise(self.depthwise(x)))


@dataclass(frozen=True, kw_only=True)
class MobileNetSpec(ModelSpec):
    """A network of depthwise separable convolutions, for images of any size.

    A block is one separable convolution, and attention follows it. The paper doesn't give this position, but it
    reproduces the counts of Table 3. `placement="conv3x3"` moves it after the depthwise convolution.
    A stage holds the blocks of one resolution, so stage n has stride 2^n.

    Attributes:
        depths: Separable convolutions in each stage. The widths double from 64 on.
        width: The width multiplier (alpha) of all channels except the image's, rounded down.
        activation: `relu` (the paper's), or `relu6` (timm's), which is limited to 6.

    Source: Howard et al. 2017 (arXiv 1704.04861), Table 1 and section 3.3; Hu et al. 2018, Table 3.
    Differs: the last stride-2 row of Table 1 is read as stride 1, as in all public code. Its input and output are 7x7.
    """

    first_stage: ClassVar[int] = 1
    placements: ClassVar[tuple[str, ...]] = ("standard", "conv3x3")
    stem_stride: ClassVar[int] = 2

    depths: tuple[int, ...] = (1, 2, 2, 6, 2)
    width: float = 1.0
    activation: str = "relu"

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        check_depths(self.depths)
        scaled(32, self.width)
        if self.activation not in _ACTIVATIONS:
            raise UnknownNameError("activation", self.activation, _ACTIVATIONS)
        super().check_values()

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        stages, channels = [], self._stem_channels
        for number, depth in enumerate(self.depths):
            out = scaled(64 * 2**number, self.width)
            stage = []
            for position in range(depth):
                stage.append(BlockShape(channels, channels, out, 2 if number > 0 and position == 0 else 1))
                channels = out
            stages.append(stage)
        return stages

    @property
    def _stem_channels(self) -> int:
        return scaled(32, self.width)

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        act = _ACTIVATIONS[self.activation]
        return ConvNet(self, conv_norm_act(self.in_channels, self._stem_channels, 3, stride=2, act=act), self._block)

    def _block(self, stage: int, block: BlockShape) -> SeparableBlock:
        return SeparableBlock(block, self.build_attention(stage, block), _ACTIVATIONS[self.activation], self.placement)


def _variants() -> dict[str, MobileNetSpec]:
    whole = MobileNetSpec()
    plain = {
        "mobilenet_v1": whole,
        "mobilenet_v1_075": replace(whole, width=0.75),
        "mobilenet_v1_050": replace(whole, width=0.5),
        "mobilenet_v1_025": replace(whole, width=0.25),
    }
    return plain | {f"se_{name}": replace(spec, attention=SE()) for name, spec in plain.items()}


VARIANTS = _variants()
"""The specs by name."""
