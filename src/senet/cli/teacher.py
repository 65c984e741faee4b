"""Options of `senet train` for distillation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from senet.cli import external
from senet.cli import options as shared
from senet.errors import SenetError
from senet.tasks import CLASSIFICATION
from senet.training.model_initialization import ModelInitialization, is_checkpoint
from senet.training.teacher import Teacher

__all__ = ["add_teacher_options", "chosen_teacher"]


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a group of their own."""
    group = parser.add_argument_group("distillation")
    group.add_argument(
        "--teacher",
        metavar="CHECKPOINT|NAME",
        help=f"learn the predictions of {shared.CHECKPOINT}, hf://USER/NAME, or a name of `senet list`, timm:NAME or "
        "torchvision:NAME with its published weights (default: none)",
    )
    group.add_argument(
        "--teacher-alpha",
        type=float,
        metavar="FRACTION",
        help=f"weight of the teacher's predictions in the loss, against the labels (default: {Teacher.alpha})",
    )
    group.add_argument(
        "--teacher-temperature",
        type=float,
        metavar="NUMBER",
        help=f"temperature of the predictions; 0 takes the likeliest class (default: {Teacher.temperature:g})",
    )


def chosen_teacher(options: argparse.Namespace, before: Teacher | None = None) -> Teacher | None:
    """Return the teacher of the options, None without one.

    Args:
        options: As parsed.
        before: Teacher of the run that is repeated.

    Raises:
        SenetError: There is no such network, or an option has no effect.
    """
    from dataclasses import replace

    values = {name: getattr(options, f"teacher_{name}") for name in ("alpha", "temperature")}
    given = {name: value for name, value in values.items() if value is not None}
    if options.teacher is not None:
        return Teacher(network=_network(options.teacher), **given)
    if given and before is None:
        raise SenetError(f"--teacher-{next(iter(given))} has no effect without --teacher")
    return before and replace(before, **given)


def _network(text: str) -> ModelInitialization:
    from senet.weights import read_checkpoint
    from senet.weights.repository import is_address, local_checkpoint
    from senet.zoo import is_code

    if is_code(text) and not is_address(text):
        raise SenetError(f"--teacher {text}: a teacher needs trained weights, so give the checkpoint of a run")
    if not is_address(text) and not is_checkpoint(text):
        return _published(text)
    path = str(local_checkpoint(text))
    if external.is_external(path):
        raise SenetError(
            f"--teacher {text} doesn't name its network and classes; convert it first:\n"
            f"senet convert {text} --model NAME --class-names A,B,C --out teacher.safetensors"
        )
    metadata: Any = read_checkpoint(Path(path))[1]
    if metadata.task != CLASSIFICATION:
        raise SenetError(f"--teacher {text} is for {metadata.task}, not for {CLASSIFICATION}")
    if is_code(metadata.model):
        raise SenetError(f"--teacher {text} is of your own network {metadata.model}; only networks by name can teach")
    return ModelInitialization.from_checkpoint(path)


def _published(name: str) -> ModelInitialization:
    try:
        return ModelInitialization.from_pretrained(name, {})
    except SenetError as error:
        reason = str(error).partition("; use --no-pretrained")[0]
        raise SenetError(f"--teacher {name}: {reason}") from error
