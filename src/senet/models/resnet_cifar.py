"""Networks for 32x32 images: CIFAR ResNet, pre-activation ResNet, Wide ResNet, Shake-Shake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import SenetError
from senet.models.resnet import BasicBranch, BottleneckBranch
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stages import ConvNet, PreActBlock, ResidualBlock, conv, conv_norm, conv_norm_act
from senet.nn import SE
from senet.preprocessing import CIFAR

__all__ = ["VARIANTS", "CifarResNetSpec", "PreActSpec", "ShakeSpec"]

Inner = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class _CifarSpec(ModelSpec):
    """Base spec with three stages at 32, 16 and 8 pixels.

    Attributes:
        depth: Number of blocks in each stage.
        widths: Channels of each stage's 3x3 convolutions.
        bottleneck: Whether blocks have three convolutions and an output of four times the width. Otherwise two 3x3.
    """

    stem_stride: ClassVar[int] = 1

    num_classes: int = 10
    depth: int
    widths: tuple[int, ...] = (16, 32, 64)
    bottleneck: bool = False

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        if self.depth < 1 or min(self.widths, default=0) < 1:
            raise SenetError(f"depth={self.depth} and widths={self.widths} must all be at least 1")
        super().check_values()

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        stages, channels = [], self._stem_channels
        for number, width in enumerate(self.widths):
            out = width * 4 if self.bottleneck else width
            stage = []
            for position in range(self.depth):
                stage.append(BlockShape(channels, width, out, 2 if number > 0 and position == 0 else 1))
                channels = out
            stages.append(stage)
        return stages

    @property
    def _stem_channels(self) -> int:
        return 16


@final
class PadShortcut(nn.Module):
    """A shortcut without parameters: every second pixel, and zeros for the missing channels (option A).

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2.
    Differs: the paper doesn't give the side of the padding. Half of the zeros come before and half after the channels,
    as in the most used public checkpoints.
    """

    def __init__(self, block: BlockShape) -> None:
        super().__init__()
        self.stride = block.stride
        missing = block.out_channels - block.in_channels
        self.pad = (missing // 2, missing - missing // 2)

    def dilate(self, stride: int, dilation: int) -> None:  # noqa: ARG002 - it reads no neighboring pixels
        """Set the stride."""
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.pad))


@dataclass(frozen=True, kw_only=True)
class CifarResNetSpec(_CifarSpec):
    """The CIFAR ResNet of 6n + 2 layers, three stages of 16, 32, 64 channels.

    Attributes:
        projection: Whether shortcuts that change the shape are 1x1 convolutions with a norm (option B, pytorchcv's).
            Otherwise they are strided slices padded with zeros (option A, the paper's).

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2.
    """

    projection: bool = False

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        return ConvNet(self, conv_norm_act(self.in_channels, self._stem_channels, 3), self._block)

    def _block(self, stage: int, block: BlockShape) -> ResidualBlock:
        branch = BottleneckBranch(block) if self.bottleneck else BasicBranch(block)
        shortcut: nn.Module = nn.Identity()
        if block.in_channels != block.out_channels or block.stride != 1:
            if self.projection:
                shortcut = conv_norm(block.in_channels, block.out_channels, 1, stride=block.stride)
            else:
                shortcut = PadShortcut(block)
        return ResidualBlock(branch, shortcut, self.build_attention(stage, block), self.placement)


@final
class PreActBranch(nn.Module):
    """A pre-activation branch after its first norm and ReLU: two or three convolutions, norm and ReLU between."""

    def __init__(self, block: BlockShape, *, bottleneck: bool) -> None:
        super().__init__()
        width = block.inner_channels
        if bottleneck:
            self.conv1 = conv(block.in_channels, width, 1)
            self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3, stride=block.stride)
            self.bn3, self.conv3 = nn.BatchNorm2d(width), conv(width, block.out_channels, 1)
        else:
            self.conv1 = conv(block.in_channels, width, 3, stride=block.stride)
            self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, block.out_channels, 3)
        self.bottleneck = bottleneck

    def forward(self, x: Tensor, inner: Inner | None = None) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        inner = inner or _identity
        if self.bottleneck:
            x = self.conv2(torch.relu(self.bn2(self.conv1(x))))
            return self.conv3(inner(torch.relu(self.bn3(x))))
        return self.conv2(inner(torch.relu(self.bn2(self.conv1(x)))))


def _identity(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True, kw_only=True)
class PreActSpec(_CifarSpec):
    """Pre-activation ResNet and, with wider stages, Wide ResNet (without dropout).

    Attributes:
        stem_norm: Whether norm and ReLU follow the stem (pytorchcv's SE-PreResNets). Otherwise they follow the last
            block, as in the paper.

    Source: He et al. 2016 (arXiv 1603.05027); Zagoruyko & Komodakis 2016 (arXiv 1605.07146), Table 1.
    """

    stem_norm: bool = False

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        if self.stem_norm:
            return ConvNet(self, conv_norm_act(self.in_channels, self._stem_channels, 3), self._block)
        stem = conv(self.in_channels, self._stem_channels, 3)
        last = self.blocks()[-1][-1].out_channels
        return ConvNet(self, stem, self._block, final=_norm_act(last))

    def _block(self, stage: int, block: BlockShape) -> PreActBlock:
        shortcut = None
        if block.in_channels != block.out_channels or block.stride != 1:
            shortcut = conv(block.in_channels, block.out_channels, 1, stride=block.stride)
        return PreActBlock(
            _norm_act(block.in_channels),
            PreActBranch(block, bottleneck=self.bottleneck),
            shortcut,
            self.build_attention(stage, block),
            self.placement,
        )


def _norm_act(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


@final
class ShakeBranch(nn.Module):
    """A random convex mixture of two branches, with one weight per image. Evaluation uses their mean.

    Args:
        first: The first branch.
        second: The second branch, of the same shape.
        even: Whether both branches get half of the gradient ("Shake-Even"). Otherwise a second random weight divides
            it ("Shake-Shake").

    Source: Gastaldi 2017 (arXiv 1705.07485), section 2, eq. 3 and Table 1.
    """

    def __init__(self, first: nn.Module, second: nn.Module, *, even: bool) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.even = even

    def forward(self, x: Tensor, inner: Inner | None = None) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        a, b = self.first(x, inner), self.second(x, inner)
        if not self.training:
            return 0.5 * (a + b)
        alpha, beta = torch.rand(2, a.shape[0], 1, 1, 1, dtype=a.dtype, device=a.device)
        share = torch.full_like(beta, 0.5) if self.even else beta
        # The value is mixed by alpha and the gradient by share. The difference is a constant for autograd.
        return share * a + (1 - share) * b + ((alpha - share) * (a - b)).detach()


@final
class TwoFlowShortcut(nn.Module):
    """A shortcut of two 1x1 convolutions to half the channels, one of them on the shifted feature map, and a norm.

    Source: Gastaldi 2017 (arXiv 1705.07485), section 2.2 ("2 concatenated flows").
    """

    def __init__(self, block: BlockShape) -> None:
        super().__init__()
        half = block.out_channels // 2
        self.stride = block.stride
        self.reach = 1
        self.conv1 = nn.Conv2d(block.in_channels, half, 1, bias=False)
        self.conv2 = nn.Conv2d(block.in_channels, block.out_channels - half, 1, bias=False)
        self.bn = nn.BatchNorm2d(block.out_channels)

    def dilate(self, stride: int, dilation: int) -> None:
        """Set the stride, and multiply the distance between neighboring pixels by `dilation`."""
        self.stride, self.reach = stride, self.reach * dilation

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        shifted = F.pad(x, (self.reach, -self.reach) * 2)
        step = self.stride
        flows = self.conv1(x[:, :, ::step, ::step]), self.conv2(shifted[:, :, ::step, ::step])
        return self.bn(torch.cat(flows, 1))


@dataclass(frozen=True, kw_only=True)
class ShakeSpec(_CifarSpec):
    """A residual network whose blocks mix two branches at random.

    The 3x3 form (CIFAR-10) activates before each block, the bottleneck form (CIFAR-100) after the sum. Attention
    rescales the mixed branch. Neither the paper nor Gastaldi gives the number of attention layers per residual block.

    Attributes:
        groups: Groups of each 3x3 convolution.
        even: Whether it is Shake-Even. Otherwise Shake-Shake.

    Source: Gastaldi 2017 (arXiv 1705.07485), sections 2.2 and 3.
    """

    groups: int = 1
    even: bool = False

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        if self.groups < 1 or (self.groups > 1 and not self.bottleneck):
            raise SenetError(f"groups={self.groups} must be at least 1, and 1 without bottlenecks")
        super().check_values()

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage. Each group of a 3x3 has the stage's width ("4x64d")."""
        return [
            [replace(block, inner_channels=block.inner_channels * self.groups) for block in stage]
            for stage in super().blocks()
        ]

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        if self.bottleneck:
            return ConvNet(self, conv_norm_act(self.in_channels, self._stem_channels, 3), self._block)
        stem = conv_norm(self.in_channels, self._stem_channels, 3)
        return ConvNet(self, stem, self._block, final=nn.ReLU())

    @property
    def _stem_channels(self) -> int:
        return 64 if self.bottleneck else 16

    def _branch(self, block: BlockShape) -> nn.Module:
        return BottleneckBranch(block, groups=self.groups) if self.bottleneck else BasicBranch(block)

    def _block(self, stage: int, block: BlockShape) -> nn.Module:
        branch = ShakeBranch(self._branch(block), self._branch(block), even=self.even)
        changes = block.in_channels != block.out_channels or block.stride != 1
        attention = self.build_attention(stage, block)
        if self.bottleneck:
            shortcut = TwoFlowShortcut(block) if changes else nn.Identity()
            return ResidualBlock(branch, shortcut, attention, self.placement)
        return PreActBlock(nn.ReLU(), branch, TwoFlowShortcut(block) if changes else None, attention, self.placement)


def _variants() -> dict[str, ModelSpec]:
    resnet20 = CifarResNetSpec(depth=3, preprocessing=CIFAR)
    preresnet20 = PreActSpec(depth=3, preprocessing=CIFAR)
    shake_even = ShakeSpec(
        depth=3,
        widths=(64, 128, 256),
        bottleneck=True,
        groups=4,
        even=True,
        num_classes=100,
        preprocessing=CIFAR,
    )
    plain: dict[str, ModelSpec] = {
        **{f"cifar_resnet{6 * n + 2}": replace(resnet20, depth=n) for n in (3, 5, 7, 9, 18)},
        **{f"cifar_preresnet{6 * n + 2}": replace(preresnet20, depth=n) for n in (3, 9, 18)},
        "cifar_preresnet164": replace(preresnet20, depth=18, bottleneck=True),
        "wrn16_8": replace(preresnet20, depth=2, widths=(128, 256, 512)),
        "wrn28_10": replace(preresnet20, depth=4, widths=(160, 320, 640)),
        "shake_shake26_2x96d": ShakeSpec(depth=4, widths=(96, 192, 384), preprocessing=CIFAR),
        "shake_even29_2x4x64d": shake_even,
    }
    return plain | {f"se_{name}": replace(spec, attention=SE()) for name, spec in plain.items()}


VARIANTS = _variants()
"""The specs by name."""
