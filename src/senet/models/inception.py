"""The building blocks of the Inception networks: branches as data, and the module that runs them in parallel."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stages import ConvNet, Head

__all__ = [
    "Branches",
    "Concat",
    "Conv",
    "InceptionBlock",
    "InceptionShape",
    "InceptionSpec",
    "Pool",
    "Steps",
    "averaging",
    "concatenated",
]


@dataclass(frozen=True)
class Conv:
    """A convolution without bias, with batch norm and ReLU.

    Attributes:
        out_channels: Output channels.
        kernel: One side, or (height, width).
        stride: The stride.
        padded: Whether it is padded so that stride 1 keeps the size. Otherwise it has no padding.
    """

    out_channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True

    def build(self, in_channels: int, eps: float) -> nn.Sequential:
        """Build the layers for (N, in_channels, H, W)."""
        height, width = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        padding = (height // 2, width // 2) if self.padded else 0
        layer = nn.Conv2d(in_channels, self.out_channels, (height, width), self.stride, padding, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(self.out_channels, eps=eps), nn.ReLU(inplace=True))


Pool = Callable[[], nn.Module]
"""Builds a pool, which keeps the channels."""

Fork = tuple[Conv, ...]
"""Parallel convolutions of one feature map, concatenated."""

Steps = tuple[Conv | Fork | Pool, ...]
"""The layers of a branch or a stem, in order."""

Branches = Mapping[str, Steps]
"""The branches of a module by name, in concatenation order."""


def averaging() -> nn.AvgPool2d:
    """Return the 3x3 average pool of most modules' last branch, with stride 1. The zero padding counts."""
    return nn.AvgPool2d(3, stride=1, padding=1)


@dataclass(frozen=True)
class InceptionShape(BlockShape):
    """A block of parallel branches, concatenated.

    Attributes:
        branches: Name and steps of each.
    """

    branches: tuple[tuple[str, Steps], ...] = ()

    @classmethod
    def of(cls, in_channels: int, branches: Branches) -> InceptionShape:
        """Derive the shape from the branches. All branches with convolutions have the same stride."""
        out = concatenated(in_channels, branches)
        strides = {_stride(steps) for steps in branches.values() if any(isinstance(s, Conv) for s in steps)}
        assert len(strides) == 1, branches
        return cls(in_channels, out, out, strides.pop(), tuple(branches.items()))


def concatenated(in_channels: int, branches: Branches) -> int:
    """Return the total channels of the concatenated branches."""
    return sum(_width(in_channels, steps) for steps in branches.values())


def _width(channels: int, steps: Iterable[Conv | Fork | Pool]) -> int:
    for step in steps:
        if isinstance(step, Conv):
            channels = step.out_channels
        elif isinstance(step, tuple):
            channels = sum(conv.out_channels for conv in step)
    return channels


def _stride(steps: Steps) -> int:
    return max(step.stride for step in steps if isinstance(step, Conv))


@final
class Concat(nn.ModuleDict):
    """Parallel modules on one feature map, concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        return torch.cat([branch(x) for branch in self.values()], 1)


def _chain(in_channels: int, steps: Steps, eps: float) -> nn.Sequential:
    made: list[nn.Module] = []
    for step in steps:
        if isinstance(step, Conv):
            made.append(step.build(in_channels, eps))
        elif isinstance(step, tuple):
            made.append(Concat({str(number): conv.build(in_channels, eps) for number, conv in enumerate(step)}))
        else:
            made.append(step())
        in_channels = _width(in_channels, [step])
    return nn.Sequential(*made)


@final
class InceptionBlock(nn.Module):
    """An Inception module with attention on its concatenation: `se(concat(branches(x)))`.

    Source: Hu et al. 2018, section 3.3 and Fig. 2.
    """

    def __init__(self, branches: Concat, attention: nn.Module) -> None:
        super().__init__()
        self.branches = branches
        self.se = attention

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        return self.se(self.branches(x))


@dataclass(frozen=True, kw_only=True)
class InceptionSpec(ModelSpec):
    """A network of Inception modules.

    A stage holds the modules of one resolution. Each stage after the first begins with the module of stride 2. The stem
    has the stride of two stages, so the stages are numbered from 3: stage n has stride 2^n, as in a ResNet.

    Attributes:
        dropout: Dropout probability before the classifier.

    Class attributes of a family:
        eps: Epsilon of its batch norms.
        stem: The layers before the first module.
    """

    first_stage: ClassVar[int] = 3
    placements: ClassVar[tuple[str, ...]] = ("standard",)
    stem_stride: ClassVar[int] = 8
    eps: ClassVar[float]
    stem: ClassVar[Steps]

    dropout: float = 0.0

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        if not 0 <= self.dropout < 1:
            raise SenetError(f"dropout={self.dropout} must lie in [0, 1)")
        super().check_values()

    @abstractmethod
    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        stem = _chain(self.in_channels, self.stem, self.eps)
        return ConvNet(self, stem, self.build_block, make_head=partial(Head, dropout=self.dropout))

    def build_block(self, stage: int, block: BlockShape) -> nn.Module:
        """Build one block of stage number `stage`."""
        assert isinstance(block, InceptionShape)
        return InceptionBlock(self.build_branches(block), self.build_attention(stage, block))

    def build_branches(self, block: InceptionShape) -> Concat:
        """Build a block's branches and their concatenation."""
        return Concat({name: _chain(block.in_channels, steps, self.eps) for name, steps in block.branches})

    def in_sequence(self, stages: Iterable[Iterable[Branches]]) -> list[list[BlockShape]]:
        """Return the shapes of consecutive modules. The first one follows the stem."""
        shapes: list[list[BlockShape]] = []
        channels = _width(self.in_channels, self.stem)
        for stage in stages:
            row: list[BlockShape] = []
            for branches in stage:
                row.append(InceptionShape.of(channels, branches))
                channels = row[-1].out_channels
            shapes.append(row)
        return shapes
