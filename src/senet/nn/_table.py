"""Look up a name in a table, with the nearest names in the error message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from senet.errors import UnknownNameError

T = TypeVar("T")


def look_up(kind: str, name: object, table: Mapping[str, T]) -> T:
    """Return `table[name]`.

    Raises:
        UnknownNameError: The table has no such name; the message gives the nearest ones.
    """
    if not isinstance(name, str) or name not in table:
        raise UnknownNameError(kind, name, table)
    return table[name]
