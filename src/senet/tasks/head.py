"""Specification of a task head: its kind and options, before backbone and classes are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import nn

from senet.errors import SenetError, UnknownNameError
from senet.models import ConvNet
from senet.nn import AttentionSpec, attention_from_dict
from senet.preprocessing import Preprocessing

__all__ = ["HeadSpec", "head_from_dict", "parse_head"]


@dataclass(frozen=True, kw_only=True)
class HeadSpec(ABC):
    """A head and its options.

    Attributes:
        channels: Channels of its feature maps.
        attention: Attention that rescales its feature maps, or None for the plain head.

    Raises:
        SenetError: An impossible value.
    """

    kind: ClassVar[str]

    channels: int = 256
    attention: AttentionSpec | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name != "attention" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SenetError(f"{f.name}={value!r} of {self.kind} must be a whole number of at least 1")
        if self.attention is not None and not isinstance(self.attention, AttentionSpec):
            raise SenetError(f"attention={self.attention!r} is no attention spec; use e.g. senet.SE() or None")

    @abstractmethod
    def build(self, network: ConvNet, num_classes: int, preprocessing: Preprocessing) -> nn.Module:
        """Build the whole network: a backbone that takes over `network`'s modules, and a new head.

        Raises:
            SenetError: This head doesn't fit the network.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form for `head_from_dict`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"kind": self.kind, **values, "attention": self.attention and self.attention.to_dict()}


def head_from_dict(values: Mapping[str, Any], kinds: Mapping[str, type[HeadSpec]]) -> HeadSpec:
    """Read the result of `HeadSpec.to_dict`.

    Raises:
        UnknownNameError: There is no such head, or it has no such option.
        SenetError: A value is wrong.
    """
    options = dict(values)
    kind = options.pop("kind", None)
    if kind not in kinds:
        raise UnknownNameError("head", kind, kinds)
    known = [f.name for f in fields(kinds[kind])]
    for name in options:
        if name not in known:
            raise UnknownNameError(f"option of {kind}", name, known)
    if isinstance(options.get("attention"), Mapping):
        options["attention"] = attention_from_dict(options["attention"])
    return kinds[kind](**options)


def parse_head(text: str, attention: AttentionSpec | None, kinds: Mapping[str, type[HeadSpec]]) -> HeadSpec:
    """Parse the head of a command line: "fcos", "unet:channels=64".

    Args:
        text: Name and options.
        attention: Attention that rescales its feature maps.
        kinds: All heads by name.

    Raises:
        UnknownNameError: There is no such head, or it has no such option.
        SenetError: An option is not of the form name=value, or its value is wrong.
    """
    kind, _, listed = text.partition(":")
    options: dict[str, Any] = {}
    for item in filter(None, listed.split(",")):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or name == "attention":
            raise SenetError(f"--head {text}: write NAME:OPTION=NUMBER, such as fcos:channels=128; --head-attention se")
        options[name] = int(value) if value.isdigit() else value
    return head_from_dict({"kind": kind, "attention": attention, **options}, kinds)
