"""Train what a comparison asks for, one run after the other; finished runs stay, half-finished ones go on."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.comparison.plan import Comparison, Turn
from senet.errors import SenetError
from senet.training.failures import Diverged
from senet.training.folder import JOB, METRICS, RESULT, write_json
from senet.training.interruption import Interrupted
from senet.training.job import Job
from senet.training.recipe import RunOptions

if TYPE_CHECKING:
    from rich.console import Console

    from senet.data import Data

__all__ = ["finished_rows", "refuse_others", "train_all"]


def train_all(
    comparison: Comparison, folder: Path, data: Data, console: Console, *, after_each: Callable[[list[str]], object]
) -> list[str]:
    """Run every training that isn't finished.

    A run whose loss becomes no number is told, and the others go on: that too is a result.

    Args:
        comparison: What to train.
        folder: Each run gets a folder in it.
        data: Opened already.
        console: For bar and messages.
        after_each: Called with what is returned so far when a run is done.

    Returns:
        A sentence for each run that failed.

    Raises:
        SenetError: A run can't work.
        Interrupted: Ctrl-C; the run's state is saved.
    """
    failed: list[str] = []
    turns = list(comparison.turns(folder))
    train = _train_in_processes if _several_devices(comparison.run) else _train
    for number, turn in enumerate(turns, 1):
        if finished_rows(turn.folder) is not None:
            continue
        state = "going on with" if _begun(turn.folder) else "training"
        line = f"run {number} of {len(turns)}: {state} {turn.variant}, seed {turn.seed}, in {turn.folder}"
        console.print(line, highlight=False, soft_wrap=True)
        try:
            train(turn, data, console)
        except Diverged as error:
            failed.append(f"{turn.variant}, seed {turn.seed}: {error}")
            console.print(failed[-1], highlight=False, soft_wrap=True)
        after_each(failed)
    return failed


def _train(turn: Turn, data: Data, console: Console) -> None:
    if _begun(turn.folder):
        turn.job.resume(turn.folder, console, data=data)
    else:
        turn.job.start(turn.folder, console, data=data)


def _several_devices(run: RunOptions) -> bool:
    import torch

    several = torch.accelerator.is_available() and torch.accelerator.device_count() > 1
    return run.devices > 1 or run.nodes > 1 or (run.devices == 0 and several)


def _train_in_processes(turn: Turn, data: Data, console: Console) -> None:  # noqa: ARG001 - called like the other
    """Through a `senet train` of its own, which starts the other devices' processes anew for each run."""
    if not _begun(turn.folder):
        write_json(turn.folder, JOB, turn.job.to_dict())
    code = subprocess.run(
        [sys.executable, "-m", "senet", "train", "--resume", str(turn.folder)], check=False
    ).returncode
    if code in (130, -signal.SIGINT):
        raise Interrupted
    if code:
        raise SenetError(f"{turn.folder}: its training ended with exit code {code}")


def _begun(folder: Path) -> bool:
    return (folder / JOB).is_file()


def refuse_others(comparison: Comparison, folder: Path) -> None:
    """Refuse to go on with runs that were begun otherwise: their results would be compared with other trainings'.

    Raises:
        SenetError: Names the run and what is different.
    """
    for turn in comparison.turns(folder):
        if not _begun(turn.folder):
            continue
        there, here = (_what(job) for job in (Job.read(turn.folder), turn.job))
        changed = [key for key in here if there.get(key) != here[key]]
        if changed:
            key = changed[0]
            raise SenetError(
                f"{turn.folder} was begun with {key} = {there.get(key)}, now it is {here[key]}; "
                "choose another --out, or go on as it was begun: --resume"
            )


def _what(job: Job) -> dict[str, Any]:
    """What a training is, flat; of how it runs, the precision alone changes the result."""
    values = replace(job, recipe=replace(job.recipe, expects="")).to_dict()
    recipe, run = values.pop("recipe"), values.pop("run")
    return values | {f"recipe.{key}": value for key, value in recipe.items()} | {"precision": run["precision"]}


def finished_rows(folder: Path) -> list[dict[str, float]] | None:
    """The epochs of a run that is trained to its end; None of any other."""
    table = folder / METRICS
    if not table.is_file():
        return None
    with table.open(encoding="utf-8", newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    done = (folder / RESULT).is_file() or (rows and rows[-1]["epoch"] >= Job.read(folder).recipe.epochs)
    return rows if done else None
