"""Print a script that completes commands and options in a shell.

It needs the package shtab (`pip install shtab`). In bash, `eval "$(senet completion bash)"` turns completion on. In
zsh, write the script to a file _senet in a folder of $fpath.

Examples:
  senet completion bash
  senet completion zsh
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from senet.errors import SenetError

__all__ = ["USAGE", "add_arguments", "completion_script", "run"]

USAGE = "senet completion SHELL"

SHELLS = ("bash", "zsh", "tcsh")

FILES = {"CHECKPOINT", "FILE", "A,B,C|FILE"}
FOLDERS = {"DIR"}
"""Placeholders of options that take a path."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    print(completion_script(options.shell))
    return 0


def completion_script(shell: str) -> str:
    """Return the script for a shell.

    Raises:
        SenetError: The package shtab is not installed.
    """
    if find_spec("shtab") is None:
        raise SenetError("senet completion needs the package shtab: pip install shtab")
    import shtab

    from senet.cli import make_parser

    parser, commands = make_parser()
    for command in commands.values():
        for action in command._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))
