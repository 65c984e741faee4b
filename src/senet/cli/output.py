"""Print results as tables or JSON."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from senet.console import counting, plain_console, printable

if TYPE_CHECKING:
    from senet.inference import EvaluationSplit

__all__ = ["counting", "print_json", "print_split", "print_table", "print_unreadable", "span", "tolerant_output"]


def print_json(value: Any) -> None:
    """Print one JSON document to standard output. NaN becomes null."""
    from senet.weights.strict_json import dump

    sys.stdout.write(dump(value))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", left: int = 1) -> None:
    """Print a table to standard output. The first `left` columns are text, the others are figures."""
    from rich import box
    from rich.table import Table

    title = printable(title)
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(printable(name), justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console = plain_console(stderr=False)
    if not console.is_terminal:  # output to a file or a pipe isn't folded at 80 columns
        width = plain_console(stderr=False, width=1_000_000).measure(table).maximum
        console = plain_console(stderr=False, width=max(40, width))
    console.print(table)


def span(interval: tuple[float, float] | None, form: str = ".2%") -> str:
    """Format an interval as `[94.61%, 98.20%]`, or nothing if there is none."""
    return "" if interval is None else f"[{interval[0]:{form}}, {interval[1]:{form}}]"


def print_split(split: EvaluationSplit) -> None:
    """Print the evaluated images, and to standard error the reasons to doubt the metrics."""
    print(split.description)
    for warning in split.warnings:
        print(f"warning: {warning}", file=sys.stderr)


def print_unreadable(unreadable: Sequence[tuple[str, str]], *, most: int = 10) -> None:
    """Print the images that were left out to standard error."""
    for path, reason in unreadable[:most]:
        print(printable(f"left out: {path}: {reason}"), file=sys.stderr)
    if len(unreadable) > most:
        print(f"left out: {len(unreadable):,} images in all", file=sys.stderr)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Print characters that the terminal's encoding lacks as escapes, within the context."""
    changed = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            changed.append((stream, stream.errors))
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in changed:
            if not stream.closed:
                stream.reconfigure(errors=errors)
