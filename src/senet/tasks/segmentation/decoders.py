"""Decoders of segmentation: U-Net, DeepLab v3+, FPN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from senet.models import Backbone
from senet.nn import AttentionSpec

__all__ = ["DeepLabDecoder", "PyramidDecoder", "Segmenter", "UNetDecoder"]


@final
class Segmenter(nn.Module):
    """Backbone, decoder, and one logit for each class and pixel.

    Args:
        backbone: Returns the decoder's feature maps.
        decoder: (feature maps, the image's height and width) -> (N, `out_channels`, h, w).
        classes: Number of classes.
    """

    def __init__(self, backbone: Backbone, decoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.decoder = decoder
        self.classifier = nn.Conv2d(decoder.out_channels, classes, 1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> logits (N, classes, H, W). Any H and W that the backbone takes."""
        size = x.shape[-2:]
        logits = self.classifier(self.decoder(self.backbone(x), size))
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _attention(spec: AttentionSpec | None, channels: int) -> nn.Module:
    return nn.Identity() if spec is None else spec.build(channels)


@final
class UNetBlock(nn.Module):
    """Upsample, concatenate with the encoder's feature map, convolve twice, with attention before and after."""

    def __init__(self, cin: int, skip: int, cout: int, attention: AttentionSpec | None) -> None:
        super().__init__()
        self.attention1 = _attention(attention, cin + skip) if skip else nn.Identity()
        self.conv1 = Conv2dNormActivation(cin + skip, cout)
        self.conv2 = Conv2dNormActivation(cout, cout)
        self.attention2 = _attention(attention, cout)

    def forward(self, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
        """(N, cin, h, w) -> (N, cout, *size)."""
        x = F.interpolate(x, size=size, mode="nearest")
        if skip is not None:
            x = self.attention1(torch.cat([x, skip], 1))
        return self.attention2(self.conv2(self.conv1(x)))


@final
class UNetDecoder(nn.Module):
    """U-Net's expanding path, with blocks without a skip connection between the finest feature map and the image.

    Args:
        channels: Channels of the backbone's feature maps, the finest first.
        strides: Strides of these feature maps.
        width: Channels of the first block, halved by each later one.
        attention: Before and after the convolutions of each block, as in scSE's paper.

    Source: Ronneberger et al. 2015 (arXiv 1505.04597); with "scse" Roy et al. 2018 (arXiv 1803.02579).
    Differs: the encoder is any network, and a feature map is upsampled to the size of the next one.
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[int], width: int, attention: AttentionSpec | None
    ) -> None:
        super().__init__()
        finer = [stride for stride in (4, 2, 1) if stride < strides[0]]
        self.free = finer  # strides of the blocks without a feature map of the encoder
        skips = [*channels[-2::-1], *(0 for _ in finer)]
        widths = [max(16, width // 2**number) for number in range(len(skips))]
        inputs = [channels[-1], *widths[:-1]]
        self.blocks = nn.ModuleList(
            UNetBlock(cin, skip, cout, attention) for cin, skip, cout in zip(inputs, skips, widths, strict=True)
        )
        self.out_channels = widths[-1]

    def forward(self, maps: list[Tensor], size: Sequence[int]) -> Tensor:
        """Feature maps -> (N, out_channels, H, W)."""
        x, skips = maps[-1], maps[-2::-1]
        for block, skip in zip(self.blocks, skips, strict=False):
            x = block(x, skip, skip.shape[-2:])
        for block, stride in zip(self.blocks[len(skips) :], self.free, strict=True):
            x = block(x, None, [-(-edge // stride) for edge in size])
        return x


@final
class DeepLabDecoder(nn.Module):
    """Atrous spatial pyramid pooling of the last feature map, concatenated with a fine one.

    Args:
        channels: Channels of the fine and of the last feature map.
        stride: Stride of the last feature map. Its dilations are 6, 12, 18 at stride 16, twice as large at stride 8.
        width: Channels of the decoder.
        attention: After each of the two last convolutions.

    Source: Chen et al. 2018 (arXiv 1802.02611), section 3 and Table 2.
    """

    def __init__(self, channels: Sequence[int], stride: int, width: int, attention: AttentionSpec | None) -> None:
        super().__init__()
        rates = [max(1, rate * 16 // stride) for rate in (6, 12, 18)]
        self.aspp = ASPP(channels[-1], rates, width)
        self.fine = Conv2dNormActivation(channels[0], 48, 1)
        self.fuse = nn.Sequential(
            Conv2dNormActivation(width + 48, width), _attention(attention, width),
            Conv2dNormActivation(width, width), _attention(attention, width),
        )  # fmt: skip
        self.out_channels = width

    def forward(self, maps: list[Tensor], size: Sequence[int]) -> Tensor:  # noqa: ARG002
        """Feature maps -> (N, out_channels, h, w) of the fine feature map's size."""
        fine = self.fine(maps[0])
        return self.fuse(torch.cat([_resized(self.aspp(maps[-1]), fine), fine], 1))


@final
class PyramidDecoder(nn.Module):
    """Feature pyramid, a convolution on each feature map, their sum at the finest resolution.

    Args:
        channels: Channels of the backbone's feature maps, the finest first.
        width: Channels of the decoder.
        attention: After the convolution of each feature map.

    Source: Kirillov et al. 2019 (arXiv 1901.02446), section 3, with one convolution for each feature map.
    """

    def __init__(self, channels: Sequence[int], width: int, attention: AttentionSpec | None) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork([*channels], width)
        self.branches = nn.ModuleList(
            nn.Sequential(Conv2dNormActivation(width, width), _attention(attention, width)) for _ in channels
        )
        self.out_channels = width

    def forward(self, maps: list[Tensor], size: Sequence[int]) -> Tensor:  # noqa: ARG002
        """Feature maps -> (N, out_channels, h, w) of the finest feature map's size."""
        pyramid = self.pyramid(OrderedDict((str(n), m) for n, m in enumerate(maps))).values()
        levels = [branch(level) for branch, level in zip(self.branches, pyramid, strict=True)]
        total = levels[0]
        for level in levels[1:]:
            total = total + _resized(level, levels[0])
        return total
