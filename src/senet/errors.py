"""The exceptions a user can meet. All are `ValueError`: the message says what was wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["CheckpointError", "DataError", "NotSeenError", "SenetError", "UnknownNameError", "from_worker", "shown"]


class SenetError(ValueError):
    """A user's mistake, told in one or two lines: what was wrong, where, and what would be right."""


class DataError(SenetError):
    """A data set that can't be used as it is: missing, empty, one class only, or with broken images."""


class CheckpointError(SenetError):
    """A checkpoint that can't be used: truncated, altered, without its description, or of another network."""


class NotSeenError(SenetError, KeyError):
    """A layer whose gates were asked for, but which hasn't run."""

    __str__ = Exception.__str__  # a KeyError shows its message in quotes


class UnknownNameError(SenetError):
    """A name that a table doesn't hold; the message gives the nearest ones.

    Args:
        kind: What was looked up, in the singular (`"model"`).
        name: The name that was asked for.
        known: The names there are.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = sorted(known)
        nearest = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
        if nearest:
            hint = f"did you mean {' or '.join(repr(n) for n in nearest)}?"
        else:
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            hint = f"known: {shown}"
        super().__init__(f"unknown {kind} {str(name)!r}; {hint}")


def from_worker(error: BaseException) -> str:
    """What an exception says, also one of a loader's process: PyTorch makes its text of the whole traceback."""
    text = str(error)
    if not text.startswith("Caught ") or "Traceback" not in text:
        return text
    return text.strip().splitlines()[-1].partition(": ")[2]


def shown(value: object, most: int = 80) -> str:
    """A value as a message shows it: on one line and cut, whatever it is."""
    try:
        text = repr(value)
    except Exception:  # deeper than Python recurses, longer than it prints, or a class of its own
        text = f"a {type(value).__name__}"
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."
