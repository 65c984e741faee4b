"""Print text to the terminal unchanged, for any names of files and classes.

Rich interprets `[old]` as a style and `:m:` as an emoji. A terminal executes control characters. Bytes that aren't
UTF-8 can't be printed.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

__all__ = ["counting", "line_printer", "plain_console", "plain_progress", "printable"]

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories of control and format characters, lone surrogates, line and paragraph separators."""

JOINERS = "\u200c\u200d"
"""Format characters that are part of some scripts and emoji."""


def printable(text: str, *, keep: str = "") -> str:
    """Return text on one line, with control and unprintable characters escaped.

    Args:
        text: Such as a file name. A byte that isn't UTF-8 becomes `\\udcXX`, as in JSON.
        keep: Characters that stay, such as an intended line break.
    """
    if text.isprintable():
        return text
    hidden = {char for char in set(text) if unicodedata.category(char) in HIDDEN} - {*JOINERS, *keep}
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in hidden})


def plain_console(*, stderr: bool = True, **options: Any) -> Console:
    """Create a console that ignores Rich's markup.

    Args:
        stderr: Whether it prints to standard error. Otherwise to standard output.
        **options: Further options of `rich.console.Console`.
    """
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, **options)


def line_printer(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line of text unchanged on any console."""

    def print_line(text: str) -> None:
        console.print(printable(text, keep="\n"), markup=False, emoji=False, highlight=False, soft_wrap=True)

    return print_line


def plain_progress(*columns: ProgressColumn | str, console: Console | None = None) -> Progress:
    """Create a progress bar that is silent without a terminal.

    Args:
        columns: Rich's columns. Text such as `"{task.description}"` is shown without markup.
        console: The console. None is standard error.
    """
    from rich.progress import Progress, TextColumn

    console = console or plain_console()
    plain = [TextColumn(column, markup=False) if isinstance(column, str) else column for column in columns]
    # Redirected output must not go to the bar's console, where Rich would print it.
    redirect = sys.stdout.isatty()
    return Progress(
        *plain, console=console, transient=True, redirect_stdout=redirect, disable=not console.is_terminal
    )  # fmt: skip


@contextmanager
def counting(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error. The context gives a function of (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    with plain_progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        tasks: list[Any] = []

        def count(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(name, total=total))
            bar.update(tasks[0], completed=done, total=total)

        yield count
