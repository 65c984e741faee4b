"""Weights of other programs: the options that choose weights in a file, and a network with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from senet.errors import SenetError
from senet.tasks import CLASSIFICATION
from senet.training.model_initialization import ModelInitialization

__all__ = ["add_choice_options", "external_initialization", "given_choice", "is_external", "refuse_choice", "report"]

_OPTIONS = ("prefix", "ignore", "weights")


def add_choice_options(parser: argparse.ArgumentParser, file: str) -> None:
    """Add the options that choose weights in a file.

    Args:
        parser: The parser that gets the options.
        file: Name of the file in the group's title.
    """
    group = parser.add_argument_group(f"weights of another program, in {file}")
    group.add_argument(
        "--prefix",
        metavar="NAME",
        help="use only the weights below this name, such as student (default: the one network that fits)",
    )
    group.add_argument(
        "--ignore",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="leave out weights with these names, such as 'criterion.*', may be repeated (default: none)",
    )
    group.add_argument(
        "--weights",
        metavar="KIND",
        help="raw or ema: the current or the averaged weights (default: averaged ones, where the file has them)",
    )


def given_choice(options: argparse.Namespace) -> dict[str, Any]:
    """Return the values of `add_choice_options` as arguments of `senet.load_weights`."""
    return {"prefix": options.prefix, "ignore": tuple(options.ignore or ()), "weights": options.weights or "auto"}


def refuse_choice(options: argparse.Namespace, why: str) -> None:
    """Raise a `SenetError` if any of these options was given."""
    given = next((name for name in _OPTIONS if getattr(options, name) is not None), None)
    if given is not None:
        raise SenetError(f"--{given}: {why}")


def is_external(path: str) -> bool:
    """Whether a file was written by another program."""
    from senet.weights.checkpoint import is_checkpoint_file

    return not is_checkpoint_file(Path(path))


def external_initialization(
    options: argparse.Namespace, network: dict[str, Any], path: str, model: str | None
) -> ModelInitialization:
    """Return the network of `--model` with the weights of another program's file.

    Raises:
        SenetError: `--model` is missing or unknown.
        CheckpointError: The file can't be read, or has no weights of the network.
    """
    if not Path(path).is_file():
        raise SenetError(f"{path}: no such file")
    if model is None:
        raise SenetError(f"{path} doesn't say which network its weights are of; use --checkpoint {path} --model NAME")
    init, notes = ModelInitialization.from_external_file(
        path, model, network, options.size, task=options.task or CLASSIFICATION, **given_choice(options)
    )
    report(path, notes, options)
    return init


def report(path: str, notes: Iterable[str], options: argparse.Namespace) -> None:
    """Print notes on the loaded weights to standard error. With `--json`, print nothing."""
    from senet.training.job import is_first_process

    if is_first_process() and not getattr(options, "json", False):
        for note in notes:
            print(f"{path}: {note}", file=sys.stderr)
