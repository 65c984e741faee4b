"""Check the fields of a spec against their annotations, and read them from command-line text."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Collection
from dataclasses import field
from typing import Any, Final, get_args

from senet.errors import SenetError, UnknownNameError


def one_of(known: Collection[Any], default: Any) -> Any:
    """Return a dataclass field restricted to the values in `known`."""
    return field(default=default, metadata={"known": known})


_BOOLEANS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def from_text(field_name: str, text: str, hint: Any) -> Any:
    """Convert command-line text to the annotated type."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if types.NoneType in kinds and text.lower() == "none":
        return None
    if bool in kinds and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if int in kinds:
        with contextlib.suppress(ValueError):
            return int(text)
    if str in kinds:
        return text
    raise SenetError(f"{field_name}: {text!r} is not {_named(hint)}")


def check_field(field_name: str, value: Any, hint: Any, known: Collection[Any] | None) -> None:
    """Raise a `SenetError` unless `value` has the annotated type and is allowed; a count must be positive."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    # Compare exact types: `isinstance(True, int)` holds, so True would pass as a reduction of 1.
    if type(value) not in kinds:
        raise SenetError(f"{field_name}: {value!r} is not {_named(hint)}")
    if known is not None:
        if value not in known:
            raise UnknownNameError(field_name, value, map(str, known))
    elif type(value) is int and value < 1:
        raise SenetError(f"{field_name}: {value} is out of range; use 1 or more")


def _named(hint: Any) -> str:
    words = {int: "a whole number", bool: "true or false", str: "a name", types.NoneType: "none"}
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return " or ".join(words.get(kind, kind.__name__) for kind in kinds)
