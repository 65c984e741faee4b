"""Train what a comparison asks for, one run after the other; finished runs stay, half-finished ones go on.

Several processes can work on one comparison, each at the runs that no other is at.
"""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.comparison.plan import PLAN, Comparison, Run
from senet.console import teller
from senet.errors import SenetError
from senet.training.failures import DIVERGED, Diverged
from senet.training.folder import JOB, METRICS, write_json
from senet.training.interruption import Interrupted
from senet.training.job import Job
from senet.training.lock import InUseError, lock_folder
from senet.training.recipe import RunOptions
from senet.training.status import has_begun

if TYPE_CHECKING:
    from rich.console import Console

    from senet.data import Data

__all__ = ["finished_rows", "join_comparison", "refuse_others", "train_all"]

PLACE = ("data", "root", "download")
"""Of `DataOptions`: where the data lies."""


@contextmanager
def join_comparison(comparison: Comparison, folder: Path, tell: Callable[[str], object]) -> Iterator[None]:
    """Write down in a folder what is compared, and let nobody compare anything else there within the block.

    Raises:
        InUseError: Another comparison is being made there.
        SenetError: The folder can't be written to.
    """
    if not (folder / PLAN).is_file():  # whoever is late by a moment finds it
        comparison.write(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(folder))
        except InUseError as error:
            if not comparison.trains_as(Comparison.read(folder)):
                raise
            tell(f"helping {error.holder} with {folder}")
        else:
            comparison.write(folder)
        yield


def train_all(
    comparison: Comparison, folder: Path, data: Data, console: Console, *, after_each: Callable[[list[str]], object]
) -> tuple[list[str], list[str]]:
    """Run every training that isn't finished and that no other process is at.

    A run whose loss becomes no number is told, and the others go on: that too is a result.

    Args:
        comparison: What to train.
        folder: Each run gets a folder in it.
        data: Opened already.
        console: For bar and messages.
        after_each: Called with the runs that failed so far when a run is done.

    Returns:
        A sentence for each run that failed, and one for each that another process is at.

    Raises:
        SenetError: A run can't work.
        Interrupted: Ctrl-C; the run's state is saved.
    """
    failed: dict[Path, str] = {}
    training_runs = list(comparison.training_runs(folder))
    train = _train_in_processes if _several_devices(comparison.run) else _train
    tell = teller(console)
    trained = True
    while trained:  # once more after the last one: a process that was at a run may have died
        trained = False
        elsewhere = []
        for number, training_run in enumerate(training_runs, 1):
            if training_run.folder in failed or finished_rows(training_run.folder) is not None:
                continue
            name = f"{training_run.variant}, seed {training_run.seed}"
            try:
                with lock_folder(training_run.folder):
                    pass  # told before anything is built
                state = "going on with" if has_begun(training_run.folder) else "training"
                tell(f"run {number} of {len(training_runs)}: {state} {name}, in {training_run.folder}")
                train(training_run, data, console)
            except Diverged as error:
                failed[training_run.folder] = f"{name}: {error}"
                tell(failed[training_run.folder])
            except InUseError as error:
                elsewhere.append(f"{name}: {error.holder} is at it")
                continue
            trained = True
            after_each(list(failed.values()))
    return list(failed.values()), elsewhere


def _train(training_run: Run, data: Data, console: Console) -> None:
    if has_begun(training_run.folder):
        _as_begun(training_run).resume(training_run.folder, console, data=data)
    else:
        training_run.job.start(training_run.folder, console, data=data)


def _as_begun(training_run: Run) -> Job:
    """The run as it was begun, which knows the hashes of its data and weights; its data may lie elsewhere now."""
    return replace(Job.read(training_run.folder), source=training_run.job.source, run=training_run.job.run)


def _several_devices(run: RunOptions) -> bool:
    import torch

    several = torch.accelerator.is_available() and torch.accelerator.device_count() > 1
    return run.devices > 1 or run.nodes > 1 or (run.devices == 0 and several)


def _train_in_processes(training_run: Run, data: Data, console: Console) -> None:  # noqa: ARG001 - called like the other
    """Through a `senet train` of its own, which starts the other devices' processes anew for each run."""
    job = _as_begun(training_run) if has_begun(training_run.folder) else training_run.job.begun(data)
    write_json(training_run.folder, JOB, job.to_dict())
    why = training_run.folder / DIVERGED
    why.unlink(missing_ok=True)
    code = subprocess.run(
        [sys.executable, "-m", "senet", "train", "--resume", str(training_run.folder)], check=False
    ).returncode
    if code in (130, -signal.SIGINT):
        raise Interrupted
    if code and why.is_file():  # a result, as on one device
        raise Diverged(why.read_text(encoding="utf-8"))
    if code:
        raise SenetError(f"{training_run.folder}: its training ended with exit code {code}")


def refuse_others(comparison: Comparison, folder: Path, data: Data) -> None:
    """Refuse to go on with runs that were begun otherwise: their results would be compared with other trainings'.

    Args:
        comparison: What to train.
        folder: Holds the runs.
        data: What to train on.

    Raises:
        SenetError: Names the run and what is different.
    """
    for training_run in comparison.training_runs(folder):
        if not has_begun(training_run.folder):
            continue
        begun = Job.read(training_run.folder)
        begun.refuse_changed(training_run.folder, data)
        there, here = (_what(job) for job in (begun, training_run.job))
        changed = [key for key in here if there.get(key) != here[key]]
        if changed:
            key = changed[0]
            raise SenetError(
                f"{training_run.folder} was begun with {key} = {there.get(key)}, now it is {here[key]}; "
                "choose another --out, or go on as it was begun: --resume"
            )


def _what(job: Job) -> dict[str, Any]:
    """What a training is, flat; of how it runs, the precision alone changes the result."""
    # Through JSON, as what was read from a file has been: a tuple has become a list.
    values = json.loads(json.dumps(replace(job, recipe=replace(job.recipe, expects="")).to_dict()))
    recipe, run = values.pop("recipe"), values.pop("run")
    del values["digest"], values["sha256"]
    for place in PLACE:  # the digest says whether it is the same data, see `refuse_others`
        del values["source"][place]
    return values | {f"recipe.{key}": value for key, value in recipe.items()} | {"precision": run["precision"]}


def finished_rows(folder: Path) -> list[dict[str, float]] | None:
    """The epochs of a run that is trained to its end; None of any other."""
    if not has_begun(folder) or Job.read(folder).status(folder).outcome is None:
        return None
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
