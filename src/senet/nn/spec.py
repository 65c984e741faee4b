"""Specifications of attention layers: the kind and its options, before the channels are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, get_type_hints

from senet.errors import SenetError, UnknownNameError
from senet.nn._fields import from_text, one_of
from senet.nn._table import look_up
from senet.nn.attention_spec import AttentionSpec
from senet.nn.block import SqueezeExcite
from senet.nn.branches import SelectiveKernel
from senet.nn.channel import EffectiveSqueezeExcite, EfficientChannelAttention
from senet.nn.composition_specs import CECA, FCA, GCT, LC0, SRM, Channel
from senet.nn.excite import ROUNDINGS
from senet.nn.gate import GATES
from senet.nn.gather import EXTENTS, GatherExcite
from senet.nn.initialization import INITS
from senet.nn.mixed import (
    COMBINES,
    BottleneckAttention,
    ChannelSpatialSqueezeExcite,
    ConvolutionalBlockAttention,
)
from senet.nn.spatial import SpatialSqueezeExcite
from senet.nn.spatial_specs import ELA, EMA, GC, GRN, SGE, Coord, Shuffle, SimAM, Split, Strip, Triplet
from senet.nn.squeeze import SQUEEZES

__all__ = [
    "ATTENTIONS",
    "BAM",
    "CBAM",
    "ECA",
    "ESE",
    "GE",
    "SE",
    "SK",
    "AttentionSpec",
    "ScSE",
    "SpatialSE",
    "attention_from_dict",
    "parse_attention",
]


@dataclass(frozen=True)
class SE(AttentionSpec):
    """Squeeze-and-Excitation. The fields are the arguments of `SqueezeExcite`.

    Example:
        >>> import senet
        >>> model = senet.create_model("cifar_resnet20", attention=senet.SE(reduction=8))
        >>> model.spec.attention.reduction
        8
    """

    kind: ClassVar[str] = "se"
    reduction: int = 16
    hidden_channels: int | None = None
    rounding: str = one_of(ROUNDINGS, "floor")
    squeeze: str = one_of(SQUEEZES, "mean")
    gate: str = one_of(GATES, "sigmoid")
    bias: bool = True
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> SqueezeExcite:
        """Return a new `SqueezeExcite`."""
        return SqueezeExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class ECA(AttentionSpec):
    """Efficient channel attention. The fields are the arguments of `EfficientChannelAttention`.

    Example:
        >>> import senet
        >>> senet.ECA().build(256).conv.kernel_size
        (5,)
    """

    kind: ClassVar[str] = "eca"
    kernel_size: int | None = None
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> EfficientChannelAttention:
        """Return a new `EfficientChannelAttention`."""
        return EfficientChannelAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class ESE(AttentionSpec):
    """Effective Squeeze-and-Excitation. The fields are the arguments of `EffectiveSqueezeExcite`.

    Example:
        >>> import senet
        >>> senet.ESE().build(64).fc
        Linear(in_features=64, out_features=64, bias=True)
    """

    kind: ClassVar[str] = "ese"
    gate: str = one_of(GATES, "hard-sigmoid")
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> EffectiveSqueezeExcite:
        """Return a new `EffectiveSqueezeExcite`."""
        return EffectiveSqueezeExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class GE(AttentionSpec):
    """Gather-Excite. The fields are the arguments of `GatherExcite`.

    Example:
        >>> import senet
        >>> senet.GE(extent=4, learned_gather=False, reduction=None).to_dict()
        {'kind': 'ge', 'extent': 4, 'learned_gather': False, 'reduction': None, 'init': 'default'}
    """

    kind: ClassVar[str] = "ge"
    extent: int = one_of(EXTENTS, 8)
    learned_gather: bool = True
    reduction: int | None = 16
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> GatherExcite:
        """Return a new `GatherExcite`."""
        return GatherExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class SpatialSE(AttentionSpec):
    """Spatial Squeeze-and-Excitation. The field is the argument of `SpatialSqueezeExcite`.

    Example:
        >>> import senet
        >>> senet.SpatialSE().build(64).conv
        Conv2d(64, 1, kernel_size=(1, 1), stride=(1, 1))
    """

    kind: ClassVar[str] = "sse"
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> SpatialSqueezeExcite:
        """Return a new `SpatialSqueezeExcite`."""
        return SpatialSqueezeExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class ScSE(AttentionSpec):
    """Channel and spatial attention. The fields are the arguments of `ChannelSpatialSqueezeExcite`.

    Example:
        >>> import senet
        >>> sum(p.numel() for p in senet.ScSE(reduction=4).build(16).parameters())
        165
    """

    kind: ClassVar[str] = "scse"
    reduction: int = 2
    combine: str = one_of(COMBINES, "add")
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> ChannelSpatialSqueezeExcite:
        """Return a new `ChannelSpatialSqueezeExcite`."""
        return ChannelSpatialSqueezeExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class CBAM(AttentionSpec):
    """Convolutional block attention. The fields are the arguments of `ConvolutionalBlockAttention`.

    Example:
        >>> import senet
        >>> senet.CBAM(kernel_size=5).build(64).conv.kernel_size
        (5, 5)
    """

    kind: ClassVar[str] = "cbam"
    reduction: int = 16
    kernel_size: int = 7
    bias: bool = False
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> ConvolutionalBlockAttention:
        """Return a new `ConvolutionalBlockAttention`."""
        return ConvolutionalBlockAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class BAM(AttentionSpec):
    """Bottleneck attention. The fields are the arguments of `BottleneckAttention`.

    Example:
        >>> import senet
        >>> senet.BAM(dilation=2).to_dict()
        {'kind': 'bam', 'reduction': 16, 'dilation': 2, 'init': 'default'}
    """

    kind: ClassVar[str] = "bam"
    reduction: int = 16
    dilation: int = 4
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> BottleneckAttention:
        """Return a new `BottleneckAttention`."""
        return BottleneckAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class SK(AttentionSpec):
    """Selective kernels. The fields are the arguments of `SelectiveKernel`.

    Example:
        >>> import senet
        >>> len(senet.SK(branches=3).build(64).convs)
        3
    """

    kind: ClassVar[str] = "sk"
    branches: int = 2
    reduction: int = 16
    min_hidden: int = 32
    groups: int = 1

    def build(self, channels: int, *, ndim: int = 2) -> SelectiveKernel:
        """Return a new `SelectiveKernel`."""
        return SelectiveKernel(channels, ndim=ndim, **self.options())


ATTENTIONS: Final[Mapping[str, type[AttentionSpec]]] = {
    spec.kind: spec
    for spec in (
        *(SE, ECA, ESE, GE, SpatialSE, ScSE, CBAM, BAM, SK),
        *(Channel, CECA, SRM, GCT, FCA, LC0),
        *(Coord, ELA, SimAM, EMA, Triplet, Shuffle, SGE, GC, GRN, Strip, Split),
    )
}


def attention_from_dict(description: Mapping[str, Any]) -> AttentionSpec:
    """Create a spec from the dictionary of `to_dict`, such as `{"kind": "se", "reduction": 8}`.

    Missing fields have their defaults.

    Raises:
        UnknownNameError: There is no such kind, or it has no such field.
        SenetError: The kind is missing, or a value has the wrong type or is out of range.

    Example:
        >>> from senet.nn import attention_from_dict
        >>> attention_from_dict({"kind": "eca", "kernel_size": 3})
        ECA(kernel_size=3, init='default')
    """
    if "kind" not in description:
        raise SenetError(f"attention without a 'kind': {dict(description)}")
    spec = look_up("attention", description["kind"], ATTENTIONS)
    options = {name: value for name, value in description.items() if name != "kind"}
    _check_names(spec, options)
    return spec(**options)


def parse_attention(text: str) -> AttentionSpec | None:
    """Parse command-line text: "se", "se:reduction=8,gate=hard-sigmoid", or "none".

    Raises:
        UnknownNameError: There is no such kind, or it has no such option.
        SenetError: An option is not of the form name=value, is given twice, or its value is wrong.

    Example:
        >>> from senet.nn import parse_attention
        >>> parse_attention("cbam:reduction=8").reduction
        8
        >>> parse_attention("none") is None
        True
    """
    kind, colon, listed = (part.strip() for part in text.partition(":"))
    if kind == "none":
        if colon:
            raise SenetError(f"'none' takes no options, got {text!r}")
        return None
    if kind not in ATTENTIONS:
        raise UnknownNameError("attention", kind, [*ATTENTIONS, "none"])
    spec = ATTENTIONS[kind]
    hints = get_type_hints(spec)
    options: dict[str, Any] = {}
    for item in listed.split(",") if colon else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if not (name and equals and value):
            raise SenetError(f"{item!r} in {text!r} is not of the form name=value")
        if name in options:
            raise SenetError(f"{name!r} is given twice in {text!r}")
        _check_names(spec, [name])
        options[name] = from_text(f"{name} of {kind!r}", value, hints[name])
    return spec(**options)


def _check_names(spec: type[AttentionSpec], names: Collection[str]) -> None:
    known = [f.name for f in dataclasses.fields(spec)]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"option of {spec.kind!r}", name, known)
