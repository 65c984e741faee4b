"""A feature pyramid on any backbone: which maps it stands on, and attention at its outputs."""

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
    """The last map of each stride, the finest first: what a pyramid stands on.

    Args:
        network: Whose maps.
        finest: Maps of smaller strides are left out, as long as two remain.
        most: At most this many, the coarsest of them.

    Raises:
        SenetError: There are fewer than two.
    """
    by_stride = {info.stride: info for info in network.spec.feature_info}
    maps = tuple(by_stride[stride] for stride in sorted(by_stride))
    if len(maps) < 2:
        raise SenetError(f"{network.spec.name} has maps of one stride only, {[*by_stride]}; a pyramid needs two")
    kept = tuple(info for info in maps if info.stride >= finest)
    kept = kept if len(kept) >= 2 else maps[-2:]
    return kept[-most:] if most else kept


@final
class PyramidBackbone(nn.Module):
    """A backbone with torchvision's feature pyramid on it, in the form in which torchvision's detectors want one.

    Args:
        network: The whole network; its modules are taken over, without its head.
        maps: Of `distinct_maps`.
        channels: Of each map of the pyramid.
        extra: Makes coarser maps from the coarsest.
        attention: What rescales each map of the pyramid.

    Attributes:
        body: The `Backbone`.
        strides: Pixels of the image to one step of each map that comes out, those of `extra` left out.

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
        """(N, C, H, W) -> maps by name, the finest first, each (N, channels, H / stride, W / stride)."""
        pyramid: dict[str, Tensor] = self.fpn(OrderedDict((str(n), m) for n, m in enumerate(self.body(x))))
        return pyramid


def attend(blocks: nn.ModuleList, attention: AttentionSpec, channels: int) -> None:
    """Append an attention layer to each of some sequences of layers."""
    for block in blocks:
        assert isinstance(block, nn.Sequential)
        block.append(attention.build(channels))
