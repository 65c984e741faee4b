"""DenseNet in its "BC" form (bottleneck layers with compression), plain and with attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.models._scale import check_depths
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stages import ConvNet, conv, conv_norm_act
from senet.nn import SE

__all__ = ["VARIANTS", "DenseLayer", "DenseNetSpec"]


@final
class DenseLayer(nn.Module):
    """A dense layer: `concat(x, se(branch(x)))`, after a transition if it is the first of its stage.

    Args:
        block: Its shape. The output has the channels it keeps and `growth` new ones. With a stride, a transition first
            compresses to the kept channels.
        growth: Number of new channels.
        attention: The attention for the new channels, or the identity in a plain network.
    """

    def __init__(self, block: BlockShape, growth: int, attention: nn.Module) -> None:
        super().__init__()
        kept = block.out_channels - growth
        self.transition = nn.Identity() if block.stride == 1 else _transition(block.in_channels, kept, block.stride)
        self.branch = nn.Sequential(
            *_norm_act(kept),
            conv(kept, block.inner_channels, 1),
            *_norm_act(block.inner_channels),
            conv(block.inner_channels, growth, 3),
        )
        self.se = attention

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        x = self.transition(x)
        return torch.cat((x, self.se(self.branch(x))), 1)


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _transition(cin: int, cout: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*_norm_act(cin), conv(cin, cout, 1), nn.AvgPool2d(stride))


@dataclass(frozen=True, kw_only=True)
class DenseNetSpec(ModelSpec):
    """A densely connected network for ImageNet-sized images. Each layer adds channels to all earlier ones.

    A block is one dense layer. Attention rescales its new channels before the concatenation, as a residual block
    rescales its branch before the sum (paper, Fig. 3). The paper's SE-ShuffleNet must also have it there to reproduce
    the cost in Table 3. Each channel is rescaled once, and all later layers read the same values. After the
    concatenation instead, the gates of up to 48 layers would be multiplied. For DenseNet-121 this placement adds 9,396
    parameters (0.1 %) with two hidden units per block. Attention over each stage's concatenation would add 306,096 (3.8
    %), and over the running concatenation after every layer 2,959,622 (37 %).

    A stage's feature map is the dense block's concatenation. The transition belongs to the next stage.

    Attributes:
        depths: Number of dense layers in each stage.
        growth: Channels added per layer. The 1x1 before its 3x3 has four times as many, the stem twice as many.

    Source: Huang et al. 2017 (arXiv 1608.06993), Table 1 and section 3.
    Differs: Hu et al. define no SE-DenseNet, and public code disagrees. ClassyVision rescales the new channels as here,
        titu1994 rescales each dense block's and each transition's output.
    """

    placements: ClassVar[tuple[str, ...]] = ("standard",)
    stem_stride: ClassVar[int] = 4

    depths: tuple[int, ...]
    growth: int = 32

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        check_depths(self.depths)
        if self.growth < 1:
            raise SenetError(f"growth={self.growth} must be at least 1")
        super().check_values()

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        stages, channels = [], self._stem_channels
        for number, depth in enumerate(self.depths):
            stage = []
            for position in range(depth):
                begins = number > 0 and position == 0
                kept = channels // 2 if begins else channels
                stage.append(BlockShape(channels, 4 * self.growth, kept + self.growth, 2 if begins else 1))
                channels = kept + self.growth
            stages.append(stage)
        return stages

    @property
    def _stem_channels(self) -> int:
        return 2 * self.growth

    def _attended_channels(self, block: BlockShape) -> int:  # noqa: ARG002 - the same in every block
        return self.growth

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        stem = conv_norm_act(self.in_channels, self._stem_channels, 7, stride=2).append(nn.MaxPool2d(3, 2, padding=1))
        return ConvNet(self, stem, self._block, final=_norm_act(self.blocks()[-1][-1].out_channels))

    def _block(self, stage: int, block: BlockShape) -> DenseLayer:
        return DenseLayer(block, self.growth, self.build_attention(stage, block))


def _variants() -> dict[str, DenseNetSpec]:
    densenet121 = DenseNetSpec(depths=(6, 12, 24, 16))
    plain = {
        "densenet121": densenet121,
        "densenet169": replace(densenet121, depths=(6, 12, 32, 32)),
        "densenet201": replace(densenet121, depths=(6, 12, 48, 32)),
    }
    return plain | {f"se_{name}": replace(spec, attention=SE()) for name, spec in plain.items()}


VARIANTS = _variants()
"""The specs by name."""
