"""The command line: `senet VERB ...`, one file a verb. Importing it costs no torch; a verb imports what it needs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from senet import __version__
from senet.cli import bench, compare, convert, cost, doctor, evaluate, export, inspect, predict, retrofit, shard, train
from senet.cli import list as list_verb
from senet.cli.memory import keep_freed_memory
from senet.cli.output import tolerant_output
from senet.console import printable
from senet.data.quiet import quiet_pillow
from senet.errors import from_worker

__all__ = ["command", "main"]

VERBS = {
    "train": train,
    "retrofit": retrofit,
    "compare": compare,
    "evaluate": evaluate,
    "predict": predict,
    "inspect": inspect,
    "export": export,
    "bench": bench,
    "list": list_verb,
    "cost": cost,
    "convert": convert,
    "doctor": doctor,
    "shard": shard,
}

USER_ERROR, BUG, INTERRUPTED = 2, 1, 130

NEWLINE = "\n"
"""A message may have two lines."""


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(prog="senet", description="Squeeze-and-Excitation networks.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"senet {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in VERBS.items():
        help_text = (module.__doc__ or "").strip().splitlines()[0]
        verb = verbs.add_parser(
            name,
            help=help_text,
            description=module.__doc__,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        module.add_arguments(verb)
    return parser


def command() -> int:
    """`senet ...`, as a process of its own: see `main`."""
    keep_freed_memory()
    quiet_pillow()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the return value is the process's exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    options = make_parser().parse_args(arguments)
    with tolerant_output():
        return _run(options)


def _run(options: argparse.Namespace) -> int:
    try:
        return VERBS[options.verb].run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has left: that is no error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, MemoryError) as error:
        if options.debug:
            raise
        print(f"senet {options.verb}: {printable(_in_words(error), keep=NEWLINE)}", file=sys.stderr)
        return USER_ERROR
    except Exception as error:
        if options.debug:
            raise
        reason = (str(error).splitlines() or [""])[0]
        print(
            f"senet {options.verb}: unexpected {type(error).__name__}: {printable(reason)}\n"
            "this is a bug in senet or one of its libraries; --debug shows where",
            file=sys.stderr,
        )
        return BUG


def _in_words(error: ValueError | OSError | MemoryError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return from_worker(error) or "memory ran out"
