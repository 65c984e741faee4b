"""The interface of the specifications of attention layers."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, get_type_hints

import torch

from senet.nn._fields import check_field
from senet.nn.attention import Attention

__all__ = ["AttentionSpec"]


@dataclass(frozen=True)
class AttentionSpec(ABC):
    """The kind and options of an attention layer. `build` adds the channels.

    A spec checks every field when it is created: its type, its name in a table, and positive counts. `check` and
    `build` check the fields against the channels.

    Example:
        >>> import senet
        >>> spec = senet.SE(reduction=8)
        >>> spec.build(64).fc1
        Linear(in_features=64, out_features=8, bias=True)
        >>> spec.check(4)
        Traceback (most recent call last):
        ...
        senet.errors.SenetError: reduction=8 leaves no hidden unit for channels=4; use 1..4
    """

    kind: ClassVar[str]

    @abstractmethod
    def build(self, channels: int, *, ndim: int = 2) -> Attention:
        """Return a new layer for (N, channels, *spatial).

        Raises:
            SenetError: The options don't suit these channels.
        """

    def check(self, channels: int, *, ndim: int = 2) -> None:
        """Check the options against these channels, without allocating anything.

        Raises:
            SenetError: The options don't suit these channels.
        """
        with torch.device("meta"):
            self.build(channels, ndim=ndim)

    def options(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_dict(self) -> dict[str, Any]:
        """Return kind and fields as a JSON-serializable dictionary. `attention_from_dict` is the inverse."""
        return {"kind": self.kind, **self.options()}

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in dataclasses.fields(self):
            check_field(f"{f.name} of {self.kind!r}", getattr(self, f.name), hints[f.name], f.metadata.get("known"))
