"""Attention as data: which layer with which options, before the channels are known."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, get_args, get_type_hints

import torch

from senet.errors import SenetError, UnknownNameError
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.block import SqueezeExcite
from senet.nn.excite import ROUNDINGS
from senet.nn.gate import GATES
from senet.nn.squeeze import SQUEEZES
from senet.nn.start import INITS

__all__ = ["ATTENTIONS", "SE", "AttentionSpec", "attention_from_dict", "parse_attention"]


def _one_of(known: Collection[Any], default: Any) -> Any:
    """Return a dataclass field that only takes the values in `known`."""
    return field(default=default, metadata={"known": known})


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
            _check_field(
                f"{f.name} of {self.kind!r}", getattr(self, f.name), hints[f.name], f.metadata.get("known")
            )


@dataclass(frozen=True)
class SE(AttentionSpec):
    """Squeeze-and-Excitation; the fields are the arguments of `SqueezeExcite`."""

    kind: ClassVar[str] = "se"
    reduction: int = 16
    hidden_channels: int | None = None
    rounding: str = _one_of(ROUNDINGS, "floor")
    squeeze: str = _one_of(SQUEEZES, "mean")
    gate: str = _one_of(GATES, "sigmoid")
    bias: bool = True
    init: str = _one_of(INITS, "default")

    def build(self, channels: int, *, ndim: int = 2) -> SqueezeExcite:
        """Return a new `SqueezeExcite`."""
        return SqueezeExcite(channels, ndim=ndim, **self.options())


ATTENTIONS: Final[Mapping[str, type[AttentionSpec]]] = {spec.kind: spec for spec in (SE,)}


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
        options[name] = _from_text(f"{name} of {kind!r}", value, hints[name])
    return spec(**options)


_TRUTHS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _from_text(what: str, text: str, hint: Any) -> Any:
    """Convert a word of the command line to the annotated type."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in _TRUTHS:
        return _TRUTHS[text.lower()]
    if int in kinds:
        with contextlib.suppress(ValueError):
            return int(text)
    if str in kinds:
        return text
    raise SenetError(f"{what}: {text!r} is not {_named(hint)}")


def _check_field(what: str, value: Any, hint: Any, known: Collection[Any] | None) -> None:
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    # By the exact type: True is an int to `isinstance`, and would pass as a reduction of 1.
    if type(value) not in kinds:
        raise SenetError(f"{what}: {value!r} is not {_named(hint)}")
    if known is not None:
        if value not in known:
            raise UnknownNameError(what, value, map(str, known))
    elif type(value) is int and value < 1:
        raise SenetError(f"{what}: {value} is out of range; use 1 or more")


def _check_names(spec: type[AttentionSpec], names: Collection[str]) -> None:
    known = [f.name for f in dataclasses.fields(spec)]
    for name in names:
        if name not in known:
            raise UnknownNameError(f"option of {spec.kind!r}", name, known)


def _named(hint: Any) -> str:
    words = {int: "a whole number", bool: "true or false", str: "a name", types.NoneType: "none"}
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(words[kind] for kind in kinds)
