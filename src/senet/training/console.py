"""Where a training speaks to a person."""

from __future__ import annotations

from rich.console import Console

__all__ = ["plain_console"]


def plain_console() -> Console:
    """Standard error, where a text is shown as it is: Rich would read `folder:m:` and `[old]` as its own language."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False)
