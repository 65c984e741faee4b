"""A feature pyramid on any backbone: the choice of its feature maps, and attention at its outputs."""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from senet.errors import SenetError
from senet.models import Backbone, ConvNet
from senet.models.spec import FeatureInfo
from senet.nn import AttentionSpec

__all__ = ["PyramidBackbone", "attend", "distinct_maps"]


def distinct_maps(network: ConvNet, *, finest: int = 1, most: int | None = None) -> tuple[FeatureInfo, ...]:
    """Return the last feature map of each stride, the finest first, as the inputs of a pyramid.

    Args:
        network: The network.
        finest: Feature maps of smaller strides are left out, as long as two remain.
        most: Largest number of feature maps. The coarsest are kept.

    Raises:
        SenetError: There are fewer than two.
    """
    by_stride = {info.stride: info for info in network.spec.feature_info}
    maps = tuple(by_stride[stride] for stride in sorted(by_stride))
    if len(maps) < 2:
        raise SenetError(f"{network.spec.name} has feature maps of stride {[*by_stride]} only; a pyramid needs two")
    kept = tuple(info for info in maps if info.stride >= finest)
    kept = kept if len(kept) >= 2 else maps[-2:]
    return kept[-most:] if most else kept


@final
class PyramidBackbone(nn.Module):
    """A backbone with torchvision's feature pyramid, in the form of torchvision's detectors.

    Args:
        network: The whole network. Its modules are taken over, without its head.
        maps: Feature maps of `distinct_maps`.
        channels: Channels of each feature map of the pyramid.
        extra: Makes coarser feature maps from the coarsest.
        attention: Attention that rescales each feature map of the pyramid.

    Attributes:
        body: The `Backbone`.
        strides: Strides of the output feature maps, except the feature maps of `extra`.

    Source: Lin et al. 2017 (arXiv 1612.03144).
    """

    def __init__(
        self,
        network: ConvNet,
        maps: tuple[FeatureInfo, ...],
        channels: int,
        *,
        extra: ExtraFPNBlock | None = None,
        attention: AttentionSpec | None = None,
    ) -> None:
        super().__init__()
        self.body = Backbone(network, [info.stage for info in maps])
        self.fpn = FeaturePyramidNetwork([*self.body.channels], channels, extra_blocks=extra)
        if attention is not None:
            attend(self.fpn.layer_blocks, attention, channels)
        self.out_channels = channels
        self.strides = self.body.strides

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> feature maps by name, the finest first, each (N, channels, H / stride, W / stride)."""
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict((str(n), m) for n, m in enumerate(self.body(x))))
        return pyramid


def attend(blocks: nn.ModuleList, attention: AttentionSpec, channels: int) -> None:
    """Append an attention layer to each sequence of layers."""
    for block in blocks:
        assert isinstance(block, nn.Sequential)
        block.append(attention.build(channels))
