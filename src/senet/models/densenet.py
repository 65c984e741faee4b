"""DenseNet (the bottleneck form with compression, "BC"), plain and with attention."""

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
    """`concat(x, se(branch(x)))`, after the transition that a stage begins with.

    Args:
        block: Its shape; going out are the channels that it keeps and `growth` new ones. With a stride, a transition
            compresses to those that it keeps.
        growth: New channels.
        attention: The block for the new channels, or the identity in a plain network.
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
        """(N, C, H, W) -> (N, C', H', W')."""
        x = self.transition(x)
        return torch.cat((x, self.se(self.branch(x))), 1)


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _transition(cin: int, cout: int, stride: int) -> nn.Sequential:
    return nn.Sequential(*_norm_act(cin), conv(cin, cout, 1), nn.AvgPool2d(stride))


@dataclass(frozen=True, kw_only=True)
class DenseNetSpec(ModelSpec):
    """A densely connected network for ImageNet-sized images: each layer adds channels to all that came before.

    A block is one dense layer, and the attention weighs its new channels before they join the others: where a branch
    is weighed before the sum in a residual block (paper, Fig. 3), and where the paper's SE-ShuffleNet must have it
    before its concatenation to cost what Table 3 says. Each channel is weighed once, and all layers after it see the
    same; over the running concatenation the gates of up to 48 layers would be multiplied. For DenseNet-121 that is
    9,396 parameters more (0.1 %) with two hidden units a block; one block over each stage's concatenation would be
    306,096 (3.8 %), and a block over the running concatenation after every layer 2,959,622 (37 %).

    A stage's map is the dense block's concatenation; the transition belongs to the next stage.

    Attributes:
        depths: Dense layers in each of the stages.
        growth: Channels that each adds. The 1x1 before its 3x3 has four times as many, the stem twice as many.

    Source: Huang et al. 2017 (arXiv 1608.06993), Table 1 and section 3.
    Differs: Hu et al. have no SE-DenseNet; public code disagrees. ClassyVision's weighs the new channels as here,
        titu1994's weighs each dense block's and each transition's output.
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
        """The shapes of all blocks, stage by stage."""
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
        """Make the network with freshly initialised weights."""
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
"""Name to spec."""
