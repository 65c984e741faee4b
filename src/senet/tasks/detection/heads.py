"""torchvision's Faster R-CNN, RetinaNet and FCOS with a feature pyramid over any network of this package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from senet.errors import SenetError
from senet.models import ConvNet
from senet.preprocessing import Preprocessing
from senet.tasks.head import HeadSpec
from senet.tasks.pyramid import PyramidBackbone, distinct_maps

__all__ = ["HEADS", "FCOSSpec", "FasterRCNNHead", "RetinaNetSpec", "image_options"]

RATIOS = (0.5, 1.0, 2.0)


def image_options(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the preprocessing of torchvision's detectors for images in 0..1. The size is (shorter, longest edge)."""
    white = preprocessing.value_range
    return {
        "min_size": min(preprocessing.size),
        "max_size": max(preprocessing.size),
        "image_mean": [value / white for value in preprocessing.mean],
        "image_std": [value / white for value in preprocessing.std],
    }


@dataclass(frozen=True, kw_only=True)
class FasterRCNNHead(HeadSpec):
    """Two stages: proposals from the pyramid, then a classifier of each proposal.

    Attributes:
        hidden: Width of the classifier's two layers.

    Source: Ren et al. 2015 (arXiv 1506.01497) with Lin et al. 2017's pyramid; anchors of 8 strides, as in the paper.
    """

    kind: ClassVar[str] = "faster_rcnn"
    hidden: int = 1024

    def build(self, network: ConvNet, num_classes: int, preprocessing: Preprocessing) -> nn.Module:
        """See `HeadSpec.build`."""
        maps = distinct_maps(network, finest=4)
        body = PyramidBackbone(
            network, maps, self.channels, extra=LastLevelMaxPool(), attention=self.attention
        )  # fmt: skip
        strides = [*body.strides, 2 * body.strides[-1]]
        names = [str(number) for number in range(len(maps))]
        return FasterRCNN(
            body,
            rpn_anchor_generator=AnchorGenerator(tuple((8 * s,) for s in strides), (RATIOS,) * len(strides)),
            box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
            box_head=TwoMLPHead(self.channels * 7 * 7, self.hidden),
            box_predictor=FastRCNNPredictor(self.hidden, num_classes + 1),
            **image_options(preprocessing),
        )


def _three_maps(network: ConvNet) -> tuple[Any, ...]:
    """Return the feature maps of strides 8 to 32. The three coarsest of a network with finer strides."""
    return distinct_maps(network, finest=8) if network.spec.feature_info[-1].stride >= 16 else distinct_maps(
        network, most=3)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RetinaNetSpec(HeadSpec):
    """One stage, nine anchors at each position, focal loss.

    Source: Lin et al. 2017 (arXiv 1708.02002); anchors of 4 strides in three sizes an octave, as in the paper.
    Differs: group norm in the head (torchvision's second version), so that it trains from scratch.
    """

    kind: ClassVar[str] = "retinanet"

    def build(self, network: ConvNet, num_classes: int, preprocessing: Preprocessing) -> nn.Module:
        """See `HeadSpec.build`."""
        body = _with_extra_maps(self, network)
        sizes = tuple(tuple(int(4 * s * 2 ** (k / 3)) for k in range(3)) for s in _five_strides(body))
        anchors = AnchorGenerator(sizes, (RATIOS,) * len(sizes))
        head = RetinaNetHead(
            self.channels, anchors.num_anchors_per_location()[0], num_classes + 1, norm_layer=_group_norm
        )
        return RetinaNet(
            body, num_classes + 1, anchor_generator=anchors, head=head, **image_options(preprocessing)
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FCOSSpec(HeadSpec):
    """One stage without anchors: each position predicts the distances of the box's edges.

    With 32 channels torchvision's group norms have one channel each. They need images whose coarsest feature map
    (stride 128) has more than one position.

    Source: Tian et al. 2019 (arXiv 1904.01355).
    """

    kind: ClassVar[str] = "fcos"

    def build(self, network: ConvNet, num_classes: int, preprocessing: Preprocessing) -> nn.Module:
        """See `HeadSpec.build`."""
        if self.channels % 32:
            raise SenetError(f"channels={self.channels} of fcos must be a multiple of 32, for its group norms")
        body = _with_extra_maps(self, network)
        anchors = AnchorGenerator(tuple((s,) for s in _five_strides(body)), ((1.0,),) * (len(body.strides) + 2))
        head = FCOSHead(self.channels, 1, num_classes + 1)
        return FCOS(
            body, num_classes + 1, anchor_generator=anchors, head=head, **image_options(preprocessing)
        )  # fmt: skip


def _with_extra_maps(spec: HeadSpec, network: ConvNet) -> PyramidBackbone:
    extra = LastLevelP6P7(spec.channels, spec.channels)
    return PyramidBackbone(network, _three_maps(network), spec.channels, extra=extra, attention=spec.attention)


def _five_strides(body: PyramidBackbone) -> list[int]:
    return [*body.strides, 2 * body.strides[-1], 4 * body.strides[-1]]


def _group_norm(channels: int) -> nn.Module:
    # At least two channels a group: the coarsest feature map of a small image has one position.
    groups = next((groups for groups in (32, 16, 8, 4, 2) if channels % (2 * groups) == 0), 1)
    return nn.GroupNorm(groups, channels)


HEADS: dict[str, type[HeadSpec]] = {spec.kind: spec for spec in (FasterRCNNHead, RetinaNetSpec, FCOSSpec)}
"""Name to head."""
