"""Inception-ResNet-v2, plain and with attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.models.inception import Branches, Concat, Conv, InceptionShape, InceptionSpec, concatenated
from senet.models.inception_v3 import IMAGENET_INCEPTION, STEM, halving_pool
from senet.models.spec import BlockShape
from senet.nn import SE

__all__ = ["VARIANTS", "InceptionResNetV2Spec", "ScaledResidualBlock"]


@final
class ScaledResidualBlock(nn.Module):
    """An Inception module as a scaled residual branch: `relu(x + scale * se(branch(x)))`.

    The branch ends in a 1x1 convolution to the channels of x. Attention rescales the branch before the scale, so its
    squeeze has the magnitude of the branch itself. In the sum the two factors commute.

    Args:
        branches: (N, C, H, W) -> (N, C', H, W).
        widths: C' and C.
        attention: The attention, or the identity in a plain network.
        scale: The factor of the branch.
        activate: Whether a ReLU follows the sum.

    Source: Szegedy et al. 2017 (arXiv 1602.07261), section 3.3 and Figs. 16-19.
    """

    def __init__(
        self, branches: Concat, widths: tuple[int, int], attention: nn.Module, *, scale: float, activate: bool
    ) -> None:
        super().__init__()
        self.branches = branches
        self.project = nn.Conv2d(*widths, 1)
        self.se = attention
        self.scale = scale
        self.activate = activate
        nn.init.kaiming_normal_(self.project.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> the same."""
        x = x + self.scale * self.se(self.project(self.branches(x)))
        return torch.relu(x) if self.activate else x


@dataclass(frozen=True)
class ScaledShape(InceptionShape):
    """A residual block of parallel branches.

    Attributes:
        scale: The factor of the branch.
        activate: Whether a ReLU follows the sum.
    """

    scale: float = 1.0
    activate: bool = True


def _averaging() -> nn.AvgPool2d:
    return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)


_ENTRY: Branches = {
    "1x1": (Conv(96),),
    "5x5": (Conv(48), Conv(64, 5)),
    "double3x3": (Conv(64), Conv(96, 3), Conv(96, 3)),
    "pool": (_averaging, Conv(64)),
}
_HALVING_A: Branches = {
    "3x3": (Conv(384, 3, 2, padded=False),),
    "double3x3": (Conv(256), Conv(256, 3), Conv(384, 3, 2, padded=False)),
    "pool": (halving_pool,),
}
_HALVING_B: Branches = {
    "3x3": (Conv(256), Conv(384, 3, 2, padded=False)),
    "3x3b": (Conv(256), Conv(288, 3, 2, padded=False)),
    "double3x3": (Conv(256), Conv(288, 3), Conv(320, 3, 2, padded=False)),
    "pool": (halving_pool,),
}
_RESIDUAL_A: Branches = {
    "1x1": (Conv(32),),
    "3x3": (Conv(32), Conv(32, 3)),
    "double3x3": (Conv(32), Conv(48, 3), Conv(64, 3)),
}
_RESIDUAL_B: Branches = {"1x1": (Conv(192),), "7x7": (Conv(128), Conv(160, (1, 7)), Conv(192, (7, 1)))}
_RESIDUAL_C: Branches = {"1x1": (Conv(192),), "3x3": (Conv(192), Conv(224, (1, 3)), Conv(256, (3, 1)))}

_STAGES = ((_ENTRY, _RESIDUAL_A, 0.17), (_HALVING_A, _RESIDUAL_B, 0.1), (_HALVING_B, _RESIDUAL_C, 0.2))
"""Each stage's first module, the branches of its residual blocks, and their scale."""

_LAST_WIDTH = 1536


@final
@dataclass(frozen=True, kw_only=True)
class InceptionResNetV2Spec(InceptionSpec):
    """Inception-ResNet-v2.

    In a residual block, attention rescales the branch before the scale and the sum. The first module of each stage has
    no shortcut, and attention follows its concatenation, as in BN-Inception's modules of stride 2 in the authors'
    definition. The last block is the 1x1 convolution to 1536 channels, without attention.

    Attributes:
        depths: Residual blocks in each of the three stages. The network's last one has no scale and no ReLU.

    Source: Szegedy et al. 2017 (arXiv 1602.07261), Figs. 15-19, with the widths of TensorFlow's public definition.
    Position of the attention: Hu et al. 2018, section 3.3.
    Differs: it has 13.16 G multiply-accumulates at 299 pixels. The 11.75 G of Hu et al. (Table 2) could not be
    reproduced.
    """

    eps = 1e-3
    stem = STEM

    depths: tuple[int, ...] = (10, 20, 10)
    dropout: float = 0.2

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        if len(self.depths) != len(_STAGES) or min(self.depths) < 1:
            raise SenetError(f"depths={self.depths} must give each of the {len(_STAGES)} stages at least one block")
        super().check_values()

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        heads = self.in_sequence([branches] for branches, _, _ in _STAGES)
        stages = [
            [*head, *(_residual(head[0].out_channels, branches, scale) for _ in range(depth))]
            for head, (_, branches, scale), depth in zip(heads, _STAGES, self.depths, strict=True)
        ]
        channels = stages[-1][-1].out_channels
        stages[-1][-1] = _residual(channels, _STAGES[-1][1], 1.0, activate=False)
        stages[-1].append(BlockShape(channels, _LAST_WIDTH, _LAST_WIDTH))
        return stages

    def build_block(self, stage: int, block: BlockShape) -> nn.Module:
        """Build one block of stage number `stage`."""
        if not isinstance(block, InceptionShape):
            return Conv(block.out_channels).build(block.in_channels, self.eps)
        if not isinstance(block, ScaledShape):
            return super().build_block(stage, block)
        return ScaledResidualBlock(
            self.build_branches(block),
            (block.inner_channels, block.out_channels),
            self.build_attention(stage, block),
            scale=block.scale,
            activate=block.activate,
        )


def _residual(channels: int, branches: Branches, scale: float, *, activate: bool = True) -> ScaledShape:
    inner = concatenated(channels, branches)
    return ScaledShape(channels, inner, channels, 1, tuple(branches.items()), scale=scale, activate=activate)


# The paper evaluates it with a shorter edge of 352 and a center crop of 299.
_PLAIN = InceptionResNetV2Spec(preprocessing=replace(IMAGENET_INCEPTION, crop_fraction=299 / 352))

VARIANTS = {"inception_resnet_v2": _PLAIN, "se_inception_resnet_v2": replace(_PLAIN, attention=SE())}
"""The specs by name."""
