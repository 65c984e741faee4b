"""The command line: `senet COMMAND ...`, one file per command. Importing it costs no torch."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from senet.cli import (
    augment_preview,
    average,
    bench,
    compare,
    completion,
    convert,
    cost,
    doctor,
    evaluate,
    export,
    inspect,
    lr_find,
    predict,
    push,
    retrofit,
    serve,
    shard,
    train,
)
from senet.cli import list as list_command
from senet.cli.config import apply_config
from senet.cli.memory import keep_freed_memory
from senet.cli.output import tolerant_output
from senet.cli.parser import Parser, UsageError
from senet.cli.version import ShowVersion
from senet.console import printable
from senet.data.quiet import quiet_pillow
from senet.errors import from_worker

__all__ = ["command", "main"]

COMMANDS = {
    "train": train,
    "retrofit": retrofit,
    "compare": compare,
    "lr-find": lr_find,
    "evaluate": evaluate,
    "predict": predict,
    "inspect": inspect,
    "serve": serve,
    "export": export,
    "push": push,
    "bench": bench,
    "list": list_command,
    "cost": cost,
    "convert": convert,
    "average": average,
    "doctor": doctor,
    "augment-preview": augment_preview,
    "shard": shard,
    "completion": completion,
}
"""Name to the module with its `USAGE`, `add_arguments` and `run`. The module's docstring is the command's help."""

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130

NEWLINE = "\n"
"""A message may have two lines."""


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser of the whole command line, and the parser of each command by name."""
    parser = Parser(
        prog="senet",
        usage="senet COMMAND [options]",
        description="Train, extend, measure and deploy Squeeze-and-Excitation networks.",
        epilog="`senet COMMAND --help` describes a command, with examples.",
    )
    parser.add_argument("--version", action=ShowVersion, help="show versions and the compiled kernel, and exit")
    commands = parser.add_subparsers(prog="senet", dest="command", metavar="COMMAND", required=True, title="commands")
    parsers: dict[str, Parser] = {}
    for name, module in COMMANDS.items():
        text = (module.__doc__ or "").strip()
        parsers[name] = commands.add_parser(
            name, usage=module.USAGE, description=text, help=text.partition("\n")[0].removesuffix(".")
        )
        parsers[name].add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(parsers[name])
    return parser, parsers


def command() -> int:
    """Run `main` as a process of its own, the console script `senet`."""
    keep_freed_memory()
    quiet_pillow()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0, 1 for a bug, 2 for a user's mistake, 130 for Ctrl-C."""
    parser, parsers = make_parser()
    options, name = argparse.Namespace(debug=False), ""
    with tolerant_output():
        try:
            options, unknown = parser.parse_known_args(arguments)
            name = f" {options.command}"
            parsers[options.command].refuse_unknown(unknown)
            apply_config(options, parsers[options.command])
        except UsageError as error:
            words = sys.argv[1:] if arguments is None else arguments
            name = name or next((f" {word}" for word in words if word in COMMANDS), "")
            print(f"senet{name}: {printable(str(error))}", file=sys.stderr)
            return USER_ERROR
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        return COMMANDS[options.command].run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output (head, less) has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError) as error:
        if options.debug:
            raise
        print(f"senet {options.command}: {printable(_in_words(error), keep=NEWLINE)}", file=sys.stderr)
        return USER_ERROR
    except Exception as error:
        if options.debug:
            raise
        reason = (str(error).splitlines() or [""])[0]
        print(
            f"senet {options.command}: unexpected {type(error).__name__}: {printable(reason)}\n"
            "this is a bug in senet or one of its libraries; --debug shows where",
            file=sys.stderr,
        )
        return BUG


def _in_words(error: ValueError | OSError | MemoryError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return from_worker(error) or "memory ran out"
