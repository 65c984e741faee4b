"""Functions that refer to a network's modules. A copied network needs copies of them."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

__all__ = ["Closures"]


class Closures:
    """Functions among a network's attributes and hooks that refer to its modules.

    `copy.deepcopy` doesn't copy functions. So these functions get stand-ins before the network is copied, and the
    stand-ins get the copied modules after it.

    Args:
        model: The network.

    Attributes:
        memo: The memo for `copy.deepcopy`: from the identity of each function to its stand-in.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {id(module) for module in model.modules()}
        self._found: list[tuple[types.FunctionType, types.FunctionType]] = []
        self.memo: dict[int, Any] = {}
        for module in model.modules():
            for leaf in tree_leaves({name: value for name, value in vars(module).items() if name != "_modules"}):
                self._prepare(leaf)

    def _prepare(self, value: Any) -> None:
        for function in _functions(value):
            if id(function) not in self.memo and self.refers(function):
                cells = tuple(types.CellType() for _ in function.__closure__ or ())
                twin = types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
                twin.__dict__ |= {name: item for name, item in vars(function).items() if name != "__wrapped__"}
                self.memo[id(function)] = twin
                self._found.append((function, twin))
                for item in _referents(function):
                    self._prepare(item)

    def refers(self, value: Any, above: tuple[int, ...] = ()) -> bool:
        """Whether a value refers to one of the network's modules, through functions and containers."""
        if id(value) in self._modules:
            return True
        if id(value) in above:
            return False
        return any(self.refers(item, (*above, id(value))) for item in _referents(value))

    def finish(self, memo: dict[int, Any]) -> None:
        """Fill the stand-ins with the contents of their functions, replacing modules by the copied ones.

        Args:
            memo: The memo after copying.
        """

        def copied(value: Any) -> Any:
            return copy.deepcopy(value, memo) if self.refers(value) else value

        for function, twin in self._found:
            for cell, old in zip(twin.__closure__ or (), function.__closure__ or (), strict=True):
                if _is_filled(old):
                    cell.cell_contents = copied(old.cell_contents)
            twin.__defaults__ = copied(function.__defaults__)
            twin.__kwdefaults__ = copied(function.__kwdefaults__)


def _functions(value: Any) -> Iterator[types.FunctionType]:
    """Yield the functions that a value is or contains, without following other functions."""
    if isinstance(value, types.FunctionType):
        yield value
    else:
        for item in _referents(value):
            yield from _functions(item)


def _referents(value: Any) -> Iterator[Any]:
    """Yield the objects that a function, method, partial or container refers to."""
    if isinstance(value, types.FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, types.MethodType):
        yield value.__self__
        yield value.__func__
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple | set):
        yield from value


def _is_filled(cell: types.CellType) -> bool:
    return cell != types.CellType()
