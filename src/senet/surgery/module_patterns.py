"""Select modules of a network by path pattern, module class or predicate."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from senet.errors import SenetError
from senet.graph.compiled import plain_modules
from senet.surgery.insertion import CHILD, inserted

__all__ = ["Where", "select_modules"]

Where = str | type[nn.Module] | Sequence[str | type[nn.Module]] | Callable[[str, nn.Module], bool]


def select_modules(model: nn.Module, where: Where) -> set[str]:
    """Return the paths of the selected modules.

    Args:
        model: The network.
        where: A path pattern, a module class, a list of these, or a function of path and module. In the pattern
            `"layer4.*"`, `*` matches one part of a path, and `**` any number.

    Raises:
        SenetError: No module is selected, or one inside another.
    """
    layers = [f"{path}.{CHILD}" for path, _ in inserted(model)]
    named = [
        (path, module)
        for path, module in plain_modules(model).items()
        if path and not any(path == layer or path.startswith(f"{layer}.") for layer in layers)
    ]
    if isinstance(where, type | str):
        where = [where]
    if callable(where):
        predicate = where
        found = [path for path, module in named if predicate(path, module)]
        selector = "the predicate"
    else:
        found = [path for path, module in named if any(_matches(item, path, module) for item in where)]
        selector = ", ".join(repr(item) if isinstance(item, str) else item.__name__ for item in where)
    if not found:
        raise SenetError(f"where: {selector} matches no module of {type(model).__name__}{_hint(where, named)}")
    known = set(found)
    for path in found:
        outer = next((up for up in _ancestors(path) if up in known), None)
        if outer is not None:
            raise SenetError(
                f"where: {selector} matches {outer} and also {path} inside it; select one of them "
                "(in a pattern, * matches one part of a path)"
            )
    return known


def _matches(item: str | type[nn.Module], path: str, module: nn.Module) -> bool:
    if isinstance(item, str):
        return re.fullmatch(_expression(item), path) is not None
    return isinstance(module, item)


def _expression(pattern: str) -> str:
    """Convert a path pattern to a regular expression."""
    pieces = re.split(r"(\*\*|\*|\?|\[[^\]]*\])", pattern)
    meanings = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    return "".join(meanings.get(p, p if p.startswith("[") and p.endswith("]") else re.escape(p)) for p in pieces)


def _ancestors(path: str) -> Iterable[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _hint(where: object, named: Sequence[tuple[str, nn.Module]]) -> str:
    if not isinstance(where, Sequence) or not where or not isinstance(where[0], str):
        return ""
    nearest = difflib.get_close_matches(where[0], [path for path, _ in named], n=3, cutoff=0.3)
    return (
        f"; the nearest are {', '.join(nearest)}"
        if nearest
        else f"; its children are {', '.join(p for p, _ in named if '.' not in p)}"
    )
