"""BN-Inception as the authors released it, plain and with attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch.nn.functional as F
from torch import Tensor, nn

from senet.models.inception import Branches, Conv, InceptionSpec, Pool, averaging
from senet.models.spec import BlockShape
from senet.nn import SE
from senet.preprocessing import IMAGENET_CAFFE

__all__ = ["VARIANTS", "BNInceptionSpec", "CutPool"]


@final
class CutPool(nn.Module):
    """3x3 max pool of stride 2, with windows cropped at the border. A padded 3x3 convolution has the same output size.

    Source: the authors' definition ("MAX, stride 2, no padding, rounding up").
    Differs: in the original, feature maps of odd size lose one row and column against the parallel convolutions and
    can't be concatenated. Here a last window, of the last pixel alone, is added. Even sizes give the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stride = 2
        self.dilation = 1

    def dilate(self, stride: int, dilation: int) -> None:
        """Set the stride, and multiply the distance between neighboring pixels by `dilation`."""
        self.stride, self.dilation = stride, self.dilation * dilation

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled feature map: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        beyond = 2 * self.dilation
        whole = F.pad(x, (0, beyond, 0, beyond), value=float("-inf"))
        return F.max_pool2d(whole, 3, self.stride, 0, self.dilation)


def _stem_pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def _maximum() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 1, padding=1)


def _same(
    conv1x1: int, conv3x3: tuple[int, int], double3x3: tuple[int, int], projection: int, pool: Pool = averaging
) -> Branches:
    """Return the branches of a module with stride 1. A pair gives the widths of a 1x1 and the 3x3s after it."""
    return {
        "1x1": (Conv(conv1x1),),
        "3x3": (Conv(conv3x3[0]), Conv(conv3x3[1], 3)),
        "double3x3": (Conv(double3x3[0]), Conv(double3x3[1], 3), Conv(double3x3[1], 3)),
        "pool": (pool, Conv(projection)),
    }


def _halving(conv3x3: tuple[int, int], double3x3: tuple[int, int]) -> Branches:
    """Return the branches of a module with stride 2, without a 1x1 branch or a projection after the pool."""
    return {
        "3x3": (Conv(conv3x3[0]), Conv(conv3x3[1], 3, 2)),
        "double3x3": (Conv(double3x3[0]), Conv(double3x3[1], 3), Conv(double3x3[1], 3, 2)),
        "pool": (CutPool,),
    }


_MODULES: tuple[tuple[Branches, ...], ...] = (
    (
        _same(64, (64, 64), (64, 96), 32),  # 3a
        _same(64, (64, 96), (64, 96), 64),
    ),
    (
        _halving((128, 160), (64, 96)),  # 3c
        _same(224, (64, 96), (96, 128), 128),
        _same(192, (96, 128), (96, 128), 128),
        _same(160, (128, 160), (128, 160), 128),
        _same(96, (128, 192), (160, 192), 128),
    ),
    (
        _halving((128, 192), (192, 256)),  # 4e
        _same(352, (192, 320), (160, 224), 128),
        _same(352, (192, 320), (192, 224), 128, pool=_maximum),
    ),
)
"""Modules 3a to 5b, by resolution."""


@final
@dataclass(frozen=True, kw_only=True)
class BNInceptionSpec(InceptionSpec):
    """BN-Inception ("Inception-v2"). Attention follows each of its ten concatenations.

    Source: Ioffe & Szegedy 2015 (arXiv 1502.03167), Fig. 5; the authors' released definition, layer by layer.
    Differs: any image size works, see `CutPool`.
    """

    eps = 1e-5
    stem = (Conv(64, 7, 2), _stem_pool, Conv(64), Conv(192, 3), _stem_pool)

    def blocks(self) -> list[list[BlockShape]]:
        """Return the shapes of all blocks, by stage."""
        return self.in_sequence(_MODULES)


_PLAIN = BNInceptionSpec(preprocessing=IMAGENET_CAFFE)

VARIANTS = {"bn_inception": _PLAIN, "se_bn_inception": replace(_PLAIN, attention=SE())}
"""The specs by name."""
