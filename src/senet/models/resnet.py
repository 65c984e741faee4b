"""ResNet, ResNeXt and SENet-154, plain and with attention, as the authors defined them, and their v1.5 forms."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, final

from torch import Tensor, nn

from senet.errors import SenetError
from senet.models.spec import BlockShape, ModelSpec
from senet.models.stages import ConvNet, Head, NormLast, ResidualBlock, conv, conv_norm, conv_norm_act
from senet.nn import SE
from senet.nn.epilogue import norm_relu
from senet.preprocessing import IMAGENET, IMAGENET_CAFFE

__all__ = ["VARIANTS", "BasicBranch", "BottleneckBranch", "ResNetSpec"]

Inner = Callable[[Tensor], Tensor]


@final
class BasicBranch(NormLast):
    """Two 3x3 convolutions (He et al. 2016, arXiv 1512.03385, Fig. 5 left). `conv3x3` attention follows the first."""

    def __init__(self, block: BlockShape) -> None:
        super().__init__()
        self.conv1 = conv(block.in_channels, block.inner_channels, 3, stride=block.stride)
        self.bn1 = nn.BatchNorm2d(block.inner_channels)
        self.conv2 = conv(block.inner_channels, block.out_channels, 3)
        self.bn2 = nn.BatchNorm2d(block.out_channels)
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        """The last batch norm."""
        return self.bn2

    def before_norm(self, x: Tensor, inner: Inner | None = None) -> Tensor:
        """Compute all but the last norm: (N, C, H, W) -> (N, C', H', W')."""
        x = norm_relu(self.conv1(x), self.bn1, self.relu)
        x = inner(x) if inner else x
        return self.conv2(x)


def _activated_branch(block: BlockShape) -> nn.Sequential:
    """Return a `BasicBranch` with a final ReLU, under the same parameter names."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv(block.in_channels, block.inner_channels, 3, stride=block.stride),
            bn1=nn.BatchNorm2d(block.inner_channels),
            relu1=nn.ReLU(inplace=True),
            conv2=conv(block.inner_channels, block.out_channels, 3),
            bn2=nn.BatchNorm2d(block.out_channels),
            relu2=nn.ReLU(inplace=True),
        )
    )


@final
class BottleneckBranch(NormLast):
    """A 1x1, 3x3 and 1x1 convolution (He et al. 2016, Fig. 5 right). ResNeXt groups the 3x3 (Xie et al. 2017).

    Args:
        block: Its shape. `inner_channels` is the width of the 3x3.
        first: Output channels of the first 1x1 (SENet-154 halves it).
        groups: Groups of the 3x3.
        stride_first: Whether the first 1x1 has the stride (the authors' SE-ResNets) instead of the 3x3.
    """

    def __init__(
        self, block: BlockShape, *, first: int | None = None, groups: int = 1, stride_first: bool = False
    ) -> None:
        super().__init__()
        first = first or block.inner_channels
        strides = (block.stride, 1) if stride_first else (1, block.stride)
        self.conv1 = conv(block.in_channels, first, 1, stride=strides[0])
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = conv(first, block.inner_channels, 3, stride=strides[1], groups=groups)
        self.bn2 = nn.BatchNorm2d(block.inner_channels)
        self.conv3 = conv(block.inner_channels, block.out_channels, 1)
        self.bn3 = nn.BatchNorm2d(block.out_channels)
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        """The last batch norm."""
        return self.bn3

    def before_norm(self, x: Tensor, inner: Inner | None = None) -> Tensor:
        """Compute all but the last norm: (N, C, H, W) -> (N, C', H', W')."""
        x = norm_relu(self.conv1(x), self.bn1, self.relu)
        x = norm_relu(self.conv2(x), self.bn2, self.relu)
        x = inner(x) if inner else x
        return self.conv3(x)


@dataclass(frozen=True, kw_only=True)
class ResNetSpec(ModelSpec):
    """A residual network for ImageNet-sized images.

    Attributes:
        depths: Blocks in each of the four stages.
        bottleneck: Whether blocks have three convolutions and an output of four times the width. Otherwise two 3x3.
        groups: Groups of each 3x3 convolution.
        group_width: Channels per group in the first stage (ResNeXt's "4d"). A ResNet has one group of 64.
        halve_first: Whether the first 1x1 has half the width of the 3x3 (SENet-154).
        stride_first: Whether a bottleneck's first 1x1 has the stride. Otherwise its 3x3 has it ("v1.5").
        deep_stem: Whether three 3x3 convolutions (64, 64, 128) replace the 7x7.
        ceil_pool: Whether the stem's pool has no padding and rounds up (Caffe). Otherwise one pixel of padding.
        projection_kernel: Kernel size of a projection with a stride. Without a stride it is 1x1.
        branch_relu: Whether a ReLU also ends each branch, before its attention (timm's `legacy_seresnet18` and 34,
            which the authors never defined). For two-convolution blocks only.
        dropout: Dropout probability before the classifier.

    Source: Hu et al. 2018, Table 1; the authors' released definitions.
    """

    stem_stride: ClassVar[int] = 4

    depths: tuple[int, ...]
    bottleneck: bool = True
    groups: int = 1
    group_width: int = 64
    halve_first: bool = False
    stride_first: bool = True
    deep_stem: bool = False
    ceil_pool: bool = True
    projection_kernel: int = 1
    branch_relu: bool = False
    dropout: float = 0.0

    def check_values(self) -> None:
        """Raise a `SenetError` for an impossible value."""
        if len(self.depths) == 0 or min(self.depths) < 1:
            raise SenetError(f"depths={self.depths} must give each stage at least one block")
        if not 0 <= self.dropout < 1:
            raise SenetError(f"dropout={self.dropout} must lie in [0, 1)")
        if self.groups < 1 or self.group_width < 1:
            raise SenetError(f"groups={self.groups} and group_width={self.group_width} must be at least 1")
        if not self.bottleneck and (self.groups > 1 or self.halve_first):
            raise SenetError(
                f"groups={self.groups}, halve_first={self.halve_first}: two-convolution blocks have neither groups "
                "nor a 1x1 to halve; use 1 and False"
            )
        if self.branch_relu and (self.bottleneck or self.placement == "conv3x3"):
            raise SenetError(
                "branch_relu=True is for two-convolution blocks (bottleneck=False), with a placement other than conv3x3"
            )
        if self.halve_first and self.group_width % 2:
            raise SenetError(f"group_width={self.group_width} must be even to be halved by halve_first")
        if self.projection_kernel < 1 or self.projection_kernel % 2 == 0:
            raise SenetError(f"projection_kernel={self.projection_kernel} must be odd")
        super().check_values()

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        stages, channels = [], self._stem_channels
        for number, depth in enumerate(self.depths):
            planes = 64 * 2**number
            inner = planes * self.group_width // 64 * self.groups
            out = planes * 4 if self.bottleneck else planes
            stage = []
            for position in range(depth):
                stride = 2 if number > 0 and position == 0 else 1
                stage.append(BlockShape(channels, inner, out, stride))
                channels = out
            stages.append(stage)
        return stages

    @property
    def _stem_channels(self) -> int:
        return 128 if self.deep_stem else 64

    def build(self) -> ConvNet:
        """Build the network with newly initialized weights."""
        return ConvNet(self, self._stem(), self._block, make_head=partial(Head, dropout=self.dropout))

    def _stem(self) -> nn.Sequential:
        if self.deep_stem:
            convs = [
                conv_norm_act(self.in_channels, 64, 3, stride=2),
                conv_norm_act(64, 64, 3),
                conv_norm_act(64, 128, 3),
            ]
        else:
            convs = [conv_norm_act(self.in_channels, 64, 7, stride=2)]
        pool = nn.MaxPool2d(3, 2, ceil_mode=True) if self.ceil_pool else nn.MaxPool2d(3, 2, padding=1)
        return nn.Sequential(*convs, pool)

    def _block(self, stage: int, block: BlockShape) -> ResidualBlock:
        branch: nn.Module
        if self.bottleneck:
            branch = BottleneckBranch(
                block,
                first=block.inner_channels // 2 if self.halve_first else None,
                groups=self.groups,
                stride_first=self.stride_first,
            )
        else:
            branch = _activated_branch(block) if self.branch_relu else BasicBranch(block)
        shortcut: nn.Module = nn.Identity()
        if block.in_channels != block.out_channels or block.stride != 1:
            kernel = self.projection_kernel if block.stride != 1 else 1
            shortcut = conv_norm(block.in_channels, block.out_channels, kernel, stride=block.stride)
        return ResidualBlock(branch, shortcut, self.build_attention(stage, block), self.placement)


def _variants() -> dict[str, ResNetSpec]:
    resnet18 = ResNetSpec(depths=(2, 2, 2, 2), bottleneck=False, preprocessing=IMAGENET_CAFFE)
    resnet34 = replace(resnet18, depths=(3, 4, 6, 3))
    resnet50 = replace(resnet34, bottleneck=True)
    resnet101 = replace(resnet50, depths=(3, 4, 23, 3))
    resnet152 = replace(resnet50, depths=(3, 8, 36, 3))
    resnext50 = replace(resnet50, groups=32, group_width=4, stride_first=False)
    resnext101 = replace(resnext50, depths=resnet101.depths)
    plain = {
        "resnet18": resnet18,
        "resnet34": resnet34,
        "resnet50": resnet50,
        "resnet101": resnet101,
        "resnet152": resnet152,
        "resnext50_32x4d": resnext50,
        "resnext101_32x4d": resnext101,
    }
    # Convention of torchvision and timm: stride on the 3x3, a padded pool, RGB in 0..1 normalized.
    v1_5 = {
        f"{name}_v1_5": replace(spec, stride_first=False, ceil_pool=False, preprocessing=IMAGENET)
        for name, spec in plain.items()
    }
    plain |= v1_5
    senet154 = replace(
        resnext50,
        depths=resnet152.depths,
        groups=64,
        halve_first=True,
        deep_stem=True,
        projection_kernel=3,
        dropout=0.2,
        attention=SE(),
    )
    return (
        plain | {f"se_{name}": replace(spec, attention=SE()) for name, spec in plain.items()} | {"senet154": senet154}
    )


VARIANTS = _variants()
"""The specs by name."""
