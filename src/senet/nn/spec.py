"""Attention as data: which layer with which options, before the channels are known."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, get_type_hints

import torch

from senet.errors import SenetError, UnknownNameError
from senet.nn._fields import check_field, from_text, one_of
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.block import SqueezeExcite
from senet.nn.branches import SelectiveKernel
from senet.nn.channel import EffectiveSqueezeExcite, EfficientChannelAttention
from senet.nn.excite import ROUNDINGS
from senet.nn.gate import GATES
from senet.nn.gather import EXTENTS, GatherExcite
from senet.nn.mixed import (
    COMBINES,
    BottleneckAttention,
    ChannelSpatialSqueezeExcite,
    ConvolutionalBlockAttention,
)
from senet.nn.spatial import SpatialSqueezeExcite
from senet.nn.squeeze import SQUEEZES
from senet.nn.start import INITS

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
class AttentionSpec(ABC):
    """A layer and its options; the channels come when it is built.

    Every field is checked when the spec is made: its type, its table of names if it has one, and that counts
    are positive. What depends on the channels is checked by `check` and `build`.
    """

    kind: ClassVar[str]

    @abstractmethod
    def build(self, channels: int, *, ndim: int = 2) -> Attention:
        """Return a new layer for (N, channels, *spatial).

        Raises:
            SenetError: The options don't suit these channels.
        """

    def check(self, channels: int, *, ndim: int = 2) -> None:
        """Raise what `build` would raise, and allocate nothing.

        Raises:
            SenetError: The options don't suit these channels.
        """
        with torch.device("meta"):
            self.build(channels, ndim=ndim)

    def options(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """Return kind and fields, ready for JSON; `attention_from_dict` is the inverse."""
        return {"kind": self.kind, **self.options()}

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in dataclasses.fields(self):
            check_field(f"{f.name} of {self.kind!r}", getattr(self, f.name), hints[f.name], f.metadata.get("known"))


@dataclass(frozen=True)
class SE(AttentionSpec):
    """Squeeze-and-Excitation; the fields are the arguments of `SqueezeExcite`."""

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
    """Efficient channel attention; the fields are the arguments of `EfficientChannelAttention`."""

    kind: ClassVar[str] = "eca"
    kernel_size: int | None = None
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> EfficientChannelAttention:
        """Return a new `EfficientChannelAttention`."""
        return EfficientChannelAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class ESE(AttentionSpec):
    """Effective Squeeze-and-Excitation; the fields are the arguments of `EffectiveSqueezeExcite`."""

    kind: ClassVar[str] = "ese"
    gate: str = one_of(GATES, "hard-sigmoid")
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> EffectiveSqueezeExcite:
        """Return a new `EffectiveSqueezeExcite`."""
        return EffectiveSqueezeExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class GE(AttentionSpec):
    """Gather-Excite; the fields are the arguments of `GatherExcite`."""

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
    """Spatial Squeeze-and-Excitation; the field is the argument of `SpatialSqueezeExcite`."""

    kind: ClassVar[str] = "sse"
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> SpatialSqueezeExcite:
        """Return a new `SpatialSqueezeExcite`."""
        return SpatialSqueezeExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class ScSE(AttentionSpec):
    """Channel and spatial attention; the fields are the arguments of `ChannelSpatialSqueezeExcite`."""

    kind: ClassVar[str] = "scse"
    reduction: int = 2
    combine: str = one_of(COMBINES, "add")
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> ChannelSpatialSqueezeExcite:
        """Return a new `ChannelSpatialSqueezeExcite`."""
        return ChannelSpatialSqueezeExcite(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class CBAM(AttentionSpec):
    """Convolutional block attention; the fields are the arguments of `ConvolutionalBlockAttention`."""

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
    """Bottleneck attention; the fields are the arguments of `BottleneckAttention`."""

    kind: ClassVar[str] = "bam"
    reduction: int = 16
    dilation: int = 4
    init: str = one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> BottleneckAttention:
        """Return a new `BottleneckAttention`."""
        return BottleneckAttention(channels, ndim=ndim, **self.options())


@dataclass(frozen=True)
class SK(AttentionSpec):
    """Selective kernels; the fields are the arguments of `SelectiveKernel`."""

    kind: ClassVar[str] = "sk"
    branches: int = 2
    reduction: int = 16
    min_hidden: int = 32
    groups: int = 1

    def build(self, channels: int, *, ndim: int = 2) -> SelectiveKernel:
        """Return a new `SelectiveKernel`."""
        return SelectiveKernel(channels, ndim=ndim, **self.options())


ATTENTIONS: Final[Mapping[str, type[AttentionSpec]]] = {
    spec.kind: spec for spec in (SE, ECA, ESE, GE, SpatialSE, ScSE, CBAM, BAM, SK)
}


def attention_from_dict(description: Mapping[str, Any]) -> AttentionSpec:
    """Return the spec that `to_dict` described, such as `{"kind": "se", "reduction": 8}`.

    Fields that are left out have their defaults.

    Raises:
        UnknownNameError: There is no such kind, or it has no such field.
        SenetError: The kind is missing, or a value has the wrong type or is out of range.
    """
    if "kind" not in description:
        raise SenetError(f"attention without a 'kind': {dict(description)}")
    spec = look_up("attention", description["kind"], ATTENTIONS)
    options = {name: value for name, value in description.items() if name != "kind"}
    _check_names(spec, options)
    return spec(**options)


def parse_attention(text: str) -> AttentionSpec | None:
    """Return the spec that a command line names: "se", "se:reduction=8,gate=hard-sigmoid", or "none".

    Raises:
        UnknownNameError: There is no such kind, or it has no such option.
        SenetError: An option is not of the form name=value, is given twice, or its value is wrong.
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
