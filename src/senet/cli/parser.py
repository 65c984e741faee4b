"""Parser of the command line: one-line errors, help that fits the terminal, arguments in two spellings."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import Any, NoReturn

__all__ = ["HelpFormatter", "Parser", "UsageError", "add_subject", "add_switch"]


class UsageError(Exception):
    """A command line that can't be parsed. The message is one line."""


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors, so that `main` prints all errors."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise a `UsageError`."""
        raise UsageError(message)

    def refuse_unknown(self, words: list[str]) -> None:
        """Raise a `UsageError` for unknown words, with the nearest option's name."""
        if not words:
            return
        word = words[0].partition("=")[0]
        nearest = difflib.get_close_matches(word, self._option_string_actions, n=1, cutoff=0.6)
        hint = f"did you mean {nearest[0]}?" if nearest else f"`{self.prog} --help` lists the options"
        self.error(f"unrecognized argument {word}; {hint}")


class HelpFormatter(argparse.HelpFormatter):
    """Fill paragraphs to the terminal's width. Blocks with indented lines, such as examples, stay as they are."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **{"max_help_position": 30} | options)

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument. argparse forgets the indentation of commands, so the longest one would get a line alone."""
        super().add_argument(action)
        for command in self._iter_indented_subactions(action):
            width = len(self._format_action_invocation(command)) + self._current_indent
            self._action_max_length = max(self._action_max_length, width)

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
    """Add a command's subject as a positional argument and as an option: `senet cost X`, `senet cost --model X`.

    Args:
        group: The group that gets both.
        name: The option's name without dashes. In capitals it is the placeholder.
        help: Help text of the positional argument.
        required: Whether one of them must be given.
        several: Whether it takes several words, as a list.
    """
    pair = group.add_mutually_exclusive_group(required=required)
    more: dict[str, Any] = {"action": "extend"} if several else {}
    more["metavar"] = name.upper()
    pair.add_argument(name, nargs="*" if several else "?", default=argparse.SUPPRESS, help=help, **more)
    pair.add_argument(f"--{name}", help=f"{name.upper()} as an option", **({"nargs": "+"} if several else {}) | more)


def add_switch(group: argparse._ArgumentGroup | argparse.ArgumentParser, flag: str, *, help: str) -> None:
    """Add an option without a value. It is None if not given."""
    group.add_argument(flag, action="store_true", default=None, help=help)
