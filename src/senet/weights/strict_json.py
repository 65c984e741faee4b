"""Strict JSON. Reading refuses non-finite numbers and duplicate keys. Any program can read the written text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn

__all__ = ["dump", "parse", "parse_object"]

MOST_BYTES: Final = 1 << 26
"""Largest accepted file size in bytes, twenty times the metadata of 100,000 classes."""

DEEPEST: Final = 50


def dump(value: Any, *, indent: int | None = 2) -> str:
    """Write JSON that any program can read, ending in a newline.

    A non-finite number becomes null. A byte of a file name that is not UTF-8 becomes `\\udcXX`, which `json` reads
    back.

    Args:
        value: A value of JSON's types.
        indent: Spaces per level. None writes one line.

    Raises:
        TypeError: JSON has no such type.
        ValueError: The value contains itself.
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
    """Read a JSON object, see `parse`.

    Raises:
        ValueError: The text is not a JSON object, or `parse` refuses it.
    """
    value = parse(content)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {_KINDS.get(type(value), 'value')}, not an object")
    return value


def parse(content: bytes | str) -> Any:
    """Read JSON.

    Raises:
        ValueError: The text is not JSON, is larger than 64 MiB or is nested deeper than 50 levels. Or it has non-finite
        numbers, duplicate keys or characters that are not Unicode text.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"{len(content):,} bytes, at most {MOST_BYTES:,} are read")
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    _check(value)
    return value


_KINDS: Final[Mapping[type, str]] = {list: "list", str: "text", bool: "truth value", type(None): "null"}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)!r}")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a finite number")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _check(value: Any) -> None:
    """Raise for deep nesting and for text that can't be written. Works by level, since Python limits recursion."""
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
