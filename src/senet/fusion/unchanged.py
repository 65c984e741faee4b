"""What was found out about modules once, valid as long as they don't change."""

from __future__ import annotations

from collections.abc import Iterable
from operator import is_
from typing import Any, Generic, TypeVar

from torch import nn
from torch.nn.modules import module as _module

__all__ = ["Unchanged"]

T = TypeVar("T")

_OWN = ("forward", "gate", "activate", "squeeze", "_compiled_call_impl")
"""Attributes of a module that may replace what it computes."""


class Unchanged(Generic[T]):
    """A value that depends on modules, with a fast check that they are as they were.

    They must have no hooks, and the same parts, parameters (in the same place of the memory) and functions. Asking
    modules for all that, attribute by attribute, takes longer than a small convolution. A copy knows nothing.

    Args:
        value: The value. None where nothing is known.
        modules: The modules, without hooks.
    """

    def __init__(self, value: T | None = None, modules: Iterable[nn.Module] = ()) -> None:
        modules = list(modules)
        self.value = value
        self.hooks: list[Any] = []
        self.places: list[tuple[dict[str, Any], str]] = []
        for m in modules:
            self.hooks += (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
            self.places += [(m.__dict__, name) for name in _OWN]
            self.places += [(m._modules, name) for name in m._modules]
            self.places += [(m._parameters, name) for name in m._parameters]
        self.found = self._found()
        self.parameters = [p for m in modules for p in m._parameters.values() if p is not None]
        self.addresses = [p.data_ptr() for p in self.parameters]

    def _found(self) -> list[Any]:
        return [place.get(name) for place, name in self.places]

    def get(self) -> T | None:
        """Return the value. None if it is not valid any more."""
        if (
            self.value is None
            or any(self.hooks)
            or not all(map(is_, self._found(), self.found))
            or [p.data_ptr() for p in self.parameters] != self.addresses
            or _module._has_any_global_hook()
        ):
            return None
        return self.value

    def __reduce__(self) -> tuple[Any, ...]:
        return Unchanged, ()
