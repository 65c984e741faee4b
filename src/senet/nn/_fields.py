"""The values of a spec's fields: checked against their annotations, and read from the command line."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Collection
from dataclasses import field
from typing import Any, Final, get_args

from senet.errors import SenetError, UnknownNameError


def one_of(known: Collection[Any], default: Any) -> Any:
    """Return a dataclass field that only takes the values in `known`."""
    return field(default=default, metadata={"known": known})


_TRUTHS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def from_text(what: str, text: str, hint: Any) -> Any:
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


def check_field(what: str, value: Any, hint: Any, known: Collection[Any] | None) -> None:
    """Raise a `SenetError` unless `value` has the annotated type, is known, and is positive if a count."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    # By the exact type: True is an int to `isinstance`, and would pass as a reduction of 1.
    if type(value) not in kinds:
        raise SenetError(f"{what}: {value!r} is not {_named(hint)}")
    if known is not None:
        if value not in known:
            raise UnknownNameError(what, value, map(str, known))
    elif type(value) is int and value < 1:
        raise SenetError(f"{what}: {value} is out of range; use 1 or more")


def _named(hint: Any) -> str:
    words = {int: "a whole number", bool: "true or false", str: "a name", types.NoneType: "none"}
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(words.get(kind, kind.__name__) for kind in kinds)
