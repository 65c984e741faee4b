"""ShuffleNet v1, plain and with attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.models._scale import check_depths, scaled
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stages import ConvNet, conv, conv_norm_act
from senet.nn import SE

__all__ = ["VARIANTS", "ShuffleBlock", "ShuffleNetSpec"]

_WIDTHS: Final[Mapping[int, int]] = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Channels of the first stage by the number of groups (Table 1). The cost is about the same."""


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Shuffle the channels across groups, (N, C, H, W) -> the same."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


@final
class ShuffleBlock(nn.Module):
    """A ShuffleNet block: `relu(x + se(branch(x)))`, or `relu(concat(se(branch(x)), pool(x)))` with a stride.

    Args:
        block: Its shape. `inner_channels` is the width of the depthwise convolution.
        groups: Groups of the pointwise convolutions and of the shuffle between them.
        first_groups: Groups of the first pointwise convolution.
        attention: The attention, or the identity in a plain network.
        placement: "standard", or "conv3x3": the attention follows the norm of the depthwise convolution.

    Source: Zhang et al. 2018 (arXiv 1707.01083), Fig. 2 (b) and (c).
    """

    def __init__(
        self, block: BlockShape, groups: int, first_groups: int, attention: nn.Module, placement: str = "standard"
    ) -> None:
        super().__init__()
        inner, out = block.inner_channels, branch_channels(block)
        self.groups = groups
        self.conv1 = conv(block.in_channels, inner, 1, groups=first_groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv(inner, inner, 3, stride=block.stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv(inner, out, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(out)
        self.pool = nn.AvgPool2d(3, block.stride, padding=1) if block.stride > 1 else None
        self.se = attention
        self.placement = placement

    def branch(self, x: Tensor) -> Tensor:
        """Return the branch's output after its last norm: (N, C, H, W) -> (N, C', H', W')."""
        x = shuffle(torch.relu(self.bn1(self.conv1(x))), self.groups)
        x = self.bn2(self.conv2(x))
        return self.bn3(self.conv3(self.se(x) if self.placement == "conv3x3" else x))

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        y = self.branch(x)
        if self.placement == "standard":
            y = self.se(y)
        return torch.relu(x + y if self.pool is None else torch.cat((y, self.pool(x)), 1))


def branch_channels(block: BlockShape) -> int:
    """Return the output channels of a block's branch. With a stride, the pooled input supplies the others."""
    return block.out_channels - (block.in_channels if block.stride > 1 else 0)


@dataclass(frozen=True, kw_only=True)
class ShuffleNetSpec(ModelSpec):
    """A network of grouped pointwise convolutions with a channel shuffle between the groups.

    Attention rescales the branch before the sum or concatenation. The paper doesn't give this position, but it
    reproduces the counts of Table 3. `placement="conv3x3"` moves it after the depthwise convolution.

    Attributes:
        groups: Groups of the pointwise convolutions. They determine the channels (Table 1).
        depths: Blocks in each stage, including the one with the stride.
        width: Multiplier of all channels except the image's ("0.5x"), rounded down.

    Source: Zhang et al. 2018 (arXiv 1707.01083), Table 1 and section 3.2; Hu et al. 2018, Table 3.
    Differs: the paper doesn't give the order of the concatenation. The branch comes first, as in pytorchcv.
    """

    placements: ClassVar[tuple[str, ...]] = ("standard", "conv3x3")
    stem_stride: ClassVar[int] = 4

    groups: int = 3
    depths: tuple[int, ...] = (4, 8, 4)
    width: float = 1.0

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        check_depths(self.depths)
        if self.groups not in _WIDTHS:
            raise SenetError(f"groups={self.groups} must be one of {', '.join(map(str, _WIDTHS))}")
        scaled(24, self.width)
        super().check_values()
        if wrong := self._undivided():
            raise SenetError(
                f"width={self.width}: {wrong[0]} channels aren't divisible by groups={self.groups}; use 1 or 2"
            )

    def _undivided(self) -> list[int]:
        """Return the channel counts of grouped convolutions that the groups don't divide."""
        blocks = [block for stage in self.blocks() for block in stage]
        counts = {n for block in blocks for n in (block.inner_channels, branch_channels(block), block.out_channels)}
        return sorted(n for n in counts if n % self.groups)

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        stages, channels = [], self._stem_channels
        for number, depth in enumerate(self.depths):
            out = scaled(_WIDTHS[self.groups] * 2**number, self.width)
            stage = []
            for position in range(depth):
                stage.append(BlockShape(channels, out // 4, out, 2 if position == 0 else 1))
                channels = out
            stages.append(stage)
        return stages

    @property
    def _stem_channels(self) -> int:
        return scaled(24, self.width)

    def _attended_channels(self, block: BlockShape) -> int:
        return block.inner_channels if self.placement == "conv3x3" else branch_channels(block)

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        stem = conv_norm_act(self.in_channels, self._stem_channels, 3, stride=2).append(nn.MaxPool2d(3, 2, padding=1))
        return ConvNet(self, stem, self._block)

    def _block(self, stage: int, block: BlockShape) -> ShuffleBlock:
        # The first pointwise convolution has too few input channels for groups (section 3.2).
        first_groups = 1 if stage == self.first_stage and block.stride > 1 else self.groups
        return ShuffleBlock(block, self.groups, first_groups, self.build_attention(stage, block), self.placement)


def _variants() -> dict[str, ShuffleNetSpec]:
    plain = {f"shufflenet_v1_g{groups}": ShuffleNetSpec(groups=groups) for groups in _WIDTHS}
    return plain | {f"se_{name}": replace(spec, attention=SE()) for name, spec in plain.items()}


VARIANTS = _variants()
"""The specs by name."""
