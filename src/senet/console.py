"""The one door to the terminal: text is shown as it is, whatever a file or a class is called.

Rich reads `[old]` as a style and `:m:` as an emoji, a terminal obeys control characters, and bytes that are no UTF-8
can't be printed at all.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

__all__ = ["plain_console", "plain_progress", "printable", "teller"]

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories of control and format characters, lone surrogates, line and paragraph separators."""

JOINERS = "\u200c\u200d"
"""Format characters that some scripts and emoji are written with."""


def printable(text: str, *, keep: str = "") -> str:
    """A text on one line, with what a terminal would obey or can't show written as an escape.

    Args:
        text: Such as a file's name; a byte of it that is no UTF-8 becomes `\\udcXX`, as in JSON.
        keep: Characters that stay, such as a line break that is meant.
    """
    if text.isprintable():
        return text
    hidden = {char for char in set(text) if unicodedata.category(char) in HIDDEN} - {*JOINERS, *keep}
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in hidden})


def plain_console(*, stderr: bool = True, **options: Any) -> Console:
    """A console without Rich's own language.

    Args:
        stderr: Standard error, else standard output.
        **options: More of `rich.console.Console`.
    """
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, **options)


def teller(console: Console) -> Callable[[str], None]:
    """A function that prints a line for a person, as it is, on any console."""

    def tell(text: str) -> None:
        console.print(printable(text, keep="\n"), markup=False, emoji=False, highlight=False, soft_wrap=True)

    return tell


def plain_progress(*columns: ProgressColumn | str, console: Console | None = None) -> Progress:
    """A bar that stays silent where there is no terminal.

    Args:
        columns: Rich's columns; a text such as `"{task.description}"` is shown without markup.
        console: Where; standard error if None.
    """
    from rich.progress import Progress, TextColumn

    console = console or plain_console()
    plain = [TextColumn(column, markup=False) if isinstance(column, str) else column for column in columns]
    # What goes into a file or another program stays there: Rich would print it where the bar is.
    printed = sys.stdout.isatty()
    return Progress(
        *plain, console=console, transient=True, redirect_stdout=printed, disable=not console.is_terminal
    )  # fmt: skip
