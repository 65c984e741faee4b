"""The parser of the command line: errors of one line, help that fits the terminal, arguments in two spellings."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import Any, NoReturn

__all__ = ["HelpFormatter", "Parser", "UsageError", "add_subject", "add_switch"]


class UsageError(Exception):
    """A command line that can't be parsed; the message is one line."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are exceptions, so that one place prints them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError`."""
        raise UsageError(message)

    def refuse_unknown(self, words: list[str]) -> None:
        """Raise a `UsageError` for words that no option takes, with the nearest option's name."""
        if not words:
            return
        word = words[0].partition("=")[0]
        nearest = difflib.get_close_matches(word, self._option_string_actions, n=1, cutoff=0.6)
        hint = f"did you mean {nearest[0]}?" if nearest else f"`{self.prog} --help` lists the options"
        self.error(f"unrecognized argument {word}; {hint}")


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs to the terminal's width; blocks with indented lines, such as examples, stay as they are."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30} | options)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = text.strip().split("\n\n")
        filled = [block if "\n " in block else textwrap.fill(block, max(width, 40)) for block in blocks]
        return textwrap.indent("\n\n".join(filled), indent)


def add_subject(
    group: argparse._ArgumentGroup | argparse.ArgumentParser,
    name: str,
    *,
    help: str,
    required: bool = True,
    several: bool = False,
) -> None:
    """Add what a command is about in two spellings, of which one is given: `senet cost X`, `senet cost --model X`.

    Args:
        group: Gets both.
        name: Of the option, without dashes; its capitals are the placeholder.
        help: Of the positional argument.
        required: Whether one of the two must be given.
        several: Whether it takes several words; they are then a list.
    """
    pair = group.add_mutually_exclusive_group(required=required)
    more: dict[str, Any] = {"action": "extend"} if several else {}
    more["metavar"] = name.upper()
    pair.add_argument(name, nargs="*" if several else "?", default=argparse.SUPPRESS, help=help, **more)
    pair.add_argument(f"--{name}", help=f"{name.upper()} as an option", **({"nargs": "+"} if several else {}) | more)


def add_switch(group: argparse._ArgumentGroup | argparse.ArgumentParser, flag: str, *, help: str) -> None:
    """Add an option without a value, which is None where it isn't given."""
    group.add_argument(flag, action="store_true", default=None, help=help)
