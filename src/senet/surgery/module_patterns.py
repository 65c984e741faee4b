"""Which of a network's modules the user means: path patterns, module types, or a predicate."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence

from torch import nn

from senet.errors import SenetError
from senet.graph.compiled import plain_modules
from senet.surgery.insertion import CHILD, inserted

__all__ = ["Where", "chosen"]

Where = str | type[nn.Module] | Sequence[str | type[nn.Module]] | Callable[[str, nn.Module], bool]


def chosen(model: nn.Module, where: Where) -> set[str]:
    """Paths of the modules that are meant.

    Args:
        model: The network.
        where: A pattern of paths, in which `*` stands for one part of a path and `**` for any number
            (`"layer4.*"`); a module class; a list of these; or a function of path and module.

    Raises:
        SenetError: None is meant, or one inside another.
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
        said = "the predicate"
    else:
        found = [path for path, module in named if any(_selected(item, path, module) for item in where)]
        said = ", ".join(repr(item) if isinstance(item, str) else item.__name__ for item in where)
    if not found:
        raise SenetError(f"where: no module of {type(model).__name__} is meant by {said}{_hint(where, named)}")
    known = set(found)
    for path in found:
        outer = next((up for up in _ancestors(path) if up in known), None)
        if outer is not None:
            raise SenetError(
                f"where: {said} means {outer} and also {path} inside it; choose one of the two "
                "(in a pattern, * stands for one part of a path)"
            )
    return known


def _selected(item: str | type[nn.Module], path: str, module: nn.Module) -> bool:
    if isinstance(item, str):
        return re.fullmatch(_expression(item), path) is not None
    return isinstance(module, item)


def _expression(pattern: str) -> str:
    """A path pattern as a regular expression."""
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
        f"; there are {', '.join(nearest)}"
        if nearest
        else f"; its parts are {', '.join(p for p, _ in named if '.' not in p)}"
    )
