"""Specifications of spatial and mixed attention, and of split attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from senet.nn._fields import one_of
from senet.nn.attention_spec import AttentionSpec
from senet.nn.context import FUSIONS, GlobalContext
from senet.nn.coordinate import CoordinateAttention
from senet.nn.groupwise import GroupwiseEnhance
from senet.nn.initialization import INITS
from senet.nn.local import EfficientLocalAttention
from senet.nn.multiscale import MultiScaleAttention
from senet.nn.response import GlobalResponseNorm
from senet.nn.shuffle import ShuffleAttention
from senet.nn.simam import SimpleAttention
from senet.nn.split import SplitAttention
from senet.nn.strip import StripAttention
from senet.nn.triplet import TripletAttention

__all__ = ["ELA", "EMA", "GC", "GRN", "SGE", "Coord", "Shuffle", "SimAM", "Split", "Strip", "Triplet"]


@dataclass(frozen=True)
class Coord(AttentionSpec):
    """Coordinate attention. The fields are the arguments of `CoordinateAttention`.

    Example:
        >>> from senet.nn import Coord
        >>> Coord(reduction=16).build(256).reduce
        Conv1d(256, 16, kernel_size=(1,), stride=(1,))
    """

    kind: ClassVar[str] = "coord"
    reduction: int = 32
    min_hidden: int = 8
    bias: bool = True
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> CoordinateAttention:
        """Return a new `CoordinateAttention`."""
        return CoordinateAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class ELA(AttentionSpec):
    """Efficient local attention. The fields are the arguments of `EfficientLocalAttention`.

    Example:
        >>> from senet.nn import ELA
        >>> ELA(kernel_size=5).build(64).convs[0].kernel_size
        (5,)
    """

    kind: ClassVar[str] = "ela"
    kernel_size: int = 7
    norm_groups: int = 16
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> EfficientLocalAttention:
        """Return a new `EfficientLocalAttention`."""
        return EfficientLocalAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class SimAM(AttentionSpec):
    """SimAM. It has no options.

    Example:
        >>> from senet.nn import SimAM
        >>> list(SimAM().build(64).parameters())
        []
    """

    kind: ClassVar[str] = "simam"

    def build(self, channels: int, *, ndim: int = 2) -> SimpleAttention:
        """Return a new `SimpleAttention`."""
        return SimpleAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class EMA(AttentionSpec):
    """Efficient multi-scale attention. The fields are the arguments of `MultiScaleAttention`.

    Example:
        >>> from senet.nn import EMA
        >>> EMA(groups=4).build(64).conv
        Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    kind: ClassVar[str] = "ema"
    groups: int = 8
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> MultiScaleAttention:
        """Return a new `MultiScaleAttention`."""
        return MultiScaleAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class Triplet(AttentionSpec):
    """Triplet attention. The fields are the arguments of `TripletAttention`.

    Example:
        >>> from senet.nn import Triplet
        >>> Triplet(kernel_size=3).build(64).convs[0].kernel_size
        (3, 3)
    """

    kind: ClassVar[str] = "triplet"
    kernel_size: int = 7
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> TripletAttention:
        """Return a new `TripletAttention`."""
        return TripletAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class Shuffle(AttentionSpec):
    """Shuffle attention. The fields are the arguments of `ShuffleAttention`.

    Example:
        >>> from senet.nn import Shuffle
        >>> Shuffle(groups=4).build(64).norm.num_channels
        8
    """

    kind: ClassVar[str] = "shuffle"
    groups: int = 8
    shuffle: bool = True
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> ShuffleAttention:
        """Return a new `ShuffleAttention`."""
        return ShuffleAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class SGE(AttentionSpec):
    """Spatial group-wise enhancement. The fields are the arguments of `GroupwiseEnhance`.

    Example:
        >>> from senet.nn import SGE
        >>> SGE(groups=4).to_dict()
        {'kind': 'sge', 'groups': 4, 'init': 'default'}
    """

    kind: ClassVar[str] = "sge"
    groups: int = 8
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> GroupwiseEnhance:
        """Return a new `GroupwiseEnhance`."""
        return GroupwiseEnhance(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class GC(AttentionSpec):
    """Global context. The fields are the arguments of `GlobalContext`.

    Example:
        >>> from senet.nn import GC
        >>> GC(fusion="scale").build(64).attend
        Conv2d(64, 1, kernel_size=(1, 1), stride=(1, 1))
    """

    kind: ClassVar[str] = "gc"
    reduction: int = 16
    fusion: str = one_of(FUSIONS, "add")
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> GlobalContext:
        """Return a new `GlobalContext`."""
        return GlobalContext(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class GRN(AttentionSpec):
    """Global response normalization. The field is the argument of `GlobalResponseNorm`.

    Example:
        >>> from senet.nn import GRN
        >>> GRN().build(64).weight.shape
        torch.Size([64])
    """

    kind: ClassVar[str] = "grn"
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> GlobalResponseNorm:
        """Return a new `GlobalResponseNorm`."""
        return GlobalResponseNorm(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class Strip(AttentionSpec):
    """Strip attention. The fields are the arguments of `StripAttention`.

    Example:
        >>> from senet.nn import Strip
        >>> Strip(depthwise=True).build(64).convs[0].groups
        64
    """

    kind: ClassVar[str] = "strip"
    kernel_size: int = 3
    depthwise: bool = False
    pointwise: bool = True
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> StripAttention:
        """Return a new `StripAttention`."""
        return StripAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class Split(AttentionSpec):
    """Split attention. The fields are the arguments of `SplitAttention`.

    Example:
        >>> from senet.nn import Split
        >>> Split(radix=4).build(64).conv.out_channels
        256
    """

    kind: ClassVar[str] = "split"
    radix: int = 2
    groups: int = 1
    reduction: int = 4
    min_hidden: int = 32

    def build(self, channels: int, *, ndim: int = 2) -> SplitAttention:
        """Return a new `SplitAttention`."""
        return SplitAttention(channels, ndim=ndim, **self.options())
