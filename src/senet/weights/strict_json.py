"""Strict JSON: read values are plain, finite and said once; written ones can be read by any program."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn

__all__ = ["dump", "parse", "parse_object"]

MOST_BYTES: Final = 1 << 26
"""More than any description of ours has: those of 100,000 classes are a twentieth of it."""

DEEPEST: Final = 50


def dump(value: Any, *, indent: int | None = 2) -> str:
    """Write JSON that any program reads, ending in a newline.

    JSON has no NaN and no infinity: such a number becomes null. A byte of a file's name that is no UTF-8 stands as
    `\\udcXX`, which `json` reads back.

    Args:
        value: Of types that JSON has.
        indent: Spaces a level; None is one line.

    Raises:
        TypeError: JSON has no such type.
        ValueError: It contains itself.
    """
    text = json.dumps(_null_for_nonfinite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode() + "\n"


def _null_for_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _null_for_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_nonfinite(inner) for inner in value]
    return value


def parse_object(content: bytes | str) -> dict[str, Any]:
    """Read a JSON object; see `parse`.

    Raises:
        ValueError: It is something else, or can't be read.
    """
    value = parse(content)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {_KINDS.get(type(value), 'value')}, not an object")
    return value


def parse(content: bytes | str) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is no JSON, is larger than 64 MiB, is nested deeper than 50 levels, has numbers that are not
            finite, a key twice in one object, or characters that are no Unicode text.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"{len(content):,} bytes, at most {MOST_BYTES:,} are read")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_once, parse_float=_finite, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    _check(value)
    return value


_KINDS: Final[Mapping[type, str]] = {list: "list", str: "text", bool: "truth value", type(None): "null"}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _check(value: Any) -> None:
    """Raise for depth and for texts that can't be written; a level at a time, since Python recurses only so far."""
    level = [value]
    for _ in range(DEEPEST + 1):
        if not level:
            return
        for item in level:
            for text in item if isinstance(item, dict) else [item]:
                if isinstance(text, str):
                    text.encode("utf-8")  # a lone surrogate is a UnicodeEncodeError
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
    raise ValueError(f"nested deeper than {DEEPEST} levels")
