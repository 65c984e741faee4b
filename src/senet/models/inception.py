"""What the Inception networks are made of: branches as data, the module that runs them side by side."""

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
    """A convolution without bias, norm and ReLU with it.

    Attributes:
        out_channels: Channels that go out.
        kernel: One side, or (height, width).
        stride: Its stride.
        padded: So that stride 1 keeps the size; else not at all.
    """

    out_channels: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    padded: bool = True

    def build(self, in_channels: int, eps: float) -> nn.Sequential:
        """Make it for (N, in_channels, H, W)."""
        height, width = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        padding = (height // 2, width // 2) if self.padded else 0
        layer = nn.Conv2d(in_channels, self.out_channels, (height, width), self.stride, padding, bias=False)
        return nn.Sequential(layer, nn.BatchNorm2d(self.out_channels, eps=eps), nn.ReLU(inplace=True))


Pool = Callable[[], nn.Module]
"""Makes a pool, which keeps the channels."""

Fork = tuple[Conv, ...]
"""Convolutions of the same map, concatenated."""

Steps = tuple[Conv | Fork | Pool, ...]
"""A branch or a stem: one after the other."""

Branches = Mapping[str, Steps]
"""The branches of a module by name, in the order of their concatenation."""


def averaging() -> nn.AvgPool2d:
    """The pool of most modules' last branch: 3x3, stride 1; zeros of the padding count."""
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
        """The shape that follows from the branches; those with convolutions have the same stride."""
        out = concatenated(in_channels, branches)
        strides = {_stride(steps) for steps in branches.values() if any(isinstance(s, Conv) for s in steps)}
        assert len(strides) == 1, branches
        return cls(in_channels, out, out, strides.pop(), tuple(branches.items()))


def concatenated(in_channels: int, branches: Branches) -> int:
    """Channels of the branches together."""
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
    """What several modules make of the same map, concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
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
    """`se(concat(branches(x)))`: the transformation that is recalibrated is the whole module.

    Source: Hu et al. 2018, section 3.3 and Fig. 2.
    """

    def __init__(self, branches: Concat, attention: nn.Module) -> None:
        super().__init__()
        self.branches = branches
        self.se = attention

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        return self.se(self.branches(x))


@dataclass(frozen=True, kw_only=True)
class InceptionSpec(ModelSpec):
    """A network of Inception modules.

    Its stages are those of equal resolution; each after the first begins with the module that halves the map. The stem
    has two stages' worth of strides, so they are numbered from 3: as in a ResNet, stage n ends with stride 2^n.

    Attributes:
        dropout: Before the classifier.

    A family says of itself:
        eps: Of its batch norms.
        stem: The steps before the first module.
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
        """The shapes of all blocks, stage by stage."""

    def build(self) -> ConvNet:
        """Make the network with freshly initialised weights."""
        stem = _chain(self.in_channels, self.stem, self.eps)
        return ConvNet(self, stem, self.build_block, make_head=partial(Head, dropout=self.dropout))

    def build_block(self, stage: int, block: BlockShape) -> nn.Module:
        """Make one block of stage number `stage`."""
        assert isinstance(block, InceptionShape)
        return InceptionBlock(self.build_branches(block), self.build_attention(stage, block))

    def build_branches(self, block: InceptionShape) -> Concat:
        """Make a block's branches and their concatenation."""
        return Concat({name: _chain(block.in_channels, steps, self.eps) for name, steps in block.branches})

    def in_sequence(self, stages: Iterable[Iterable[Branches]]) -> list[list[BlockShape]]:
        """The shapes of modules of which each gets what the one before gives; the first gets the stem's map."""
        shapes: list[list[BlockShape]] = []
        channels = _width(self.in_channels, self.stem)
        for stage in stages:
            row: list[BlockShape] = []
            for branches in stage:
                row.append(InceptionShape.of(channels, branches))
                channels = row[-1].out_channels
            shapes.append(row)
        return shapes
