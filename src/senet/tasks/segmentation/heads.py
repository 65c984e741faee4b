"""Segmentation heads by name, over any network of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from senet.models import Backbone, ConvNet
from senet.preprocessing import Preprocessing
from senet.tasks.head import HeadSpec
from senet.tasks.pyramid import distinct_maps
from senet.tasks.segmentation.decoders import DeepLabDecoder, PyramidDecoder, Segmenter, UNetDecoder

__all__ = ["HEADS", "DeepLabHead", "PyramidHead", "UNetHead"]


@dataclass(frozen=True, kw_only=True)
class UNetHead(HeadSpec):
    """U-Net. `channels` is the width of its first block, halved by each later one."""

    kind: ClassVar[str] = "unet"

    def build(self, network: ConvNet, num_classes: int, preprocessing: Preprocessing) -> nn.Module:  # noqa: ARG002
        """See `HeadSpec.build`."""
        backbone = Backbone(network, [info.stage for info in distinct_maps(network)])
        decoder = UNetDecoder(backbone.channels, backbone.strides, self.channels, self.attention)
        return Segmenter(backbone, decoder, num_classes)


@dataclass(frozen=True, kw_only=True)
class DeepLabHead(HeadSpec):
    """DeepLab v3+. The published networks have `output_stride` 8 or 16 (`--model-kwargs output_stride=16`)."""

    kind: ClassVar[str] = "deeplabv3plus"

    def build(self, network: ConvNet, num_classes: int, preprocessing: Preprocessing) -> nn.Module:  # noqa: ARG002
        """See `HeadSpec.build`."""
        maps = distinct_maps(network, finest=4)
        backbone = Backbone(network, [maps[0].stage, maps[-1].stage])
        decoder = DeepLabDecoder(backbone.channels, backbone.strides[-1], self.channels, self.attention)
        return Segmenter(backbone, decoder, num_classes)


@dataclass(frozen=True, kw_only=True)
class PyramidHead(HeadSpec):
    """A feature pyramid, summed at its finest feature map."""

    kind: ClassVar[str] = "fpn"
    channels: int = 128

    def build(self, network: ConvNet, num_classes: int, preprocessing: Preprocessing) -> nn.Module:  # noqa: ARG002
        """See `HeadSpec.build`."""
        maps = distinct_maps(network, finest=4)
        backbone = Backbone(network, [info.stage for info in maps])
        return Segmenter(backbone, PyramidDecoder(backbone.channels, self.channels, self.attention), num_classes)


HEADS: dict[str, type[HeadSpec]] = {spec.kind: spec for spec in (UNetHead, DeepLabHead, PyramidHead)}
"""Name to head."""
