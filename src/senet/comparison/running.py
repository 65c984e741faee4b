"""Train the runs of a comparison one after the other. Finished runs are kept, unfinished ones are resumed.

Several processes can work on one comparison. Each takes runs that no other process is training.
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

from senet.comparison.plan import DECISIVE, PLAN, Comparison, Run
from senet.console import line_printer
from senet.errors import SenetError
from senet.training.failures import DIVERGED, Diverged
from senet.training.folder import JOB, METRICS, write_json
from senet.training.interruption import Interrupted
from senet.training.job import Job
from senet.training.lock import InUseError, lock_folder
from senet.training.recipe import RunOptions
from senet.training.status import has_run

if TYPE_CHECKING:
    from rich.console import Console

    from senet.data import Data

__all__ = ["finished_rows", "join_comparison", "refuse_others", "train_all", "train_run"]

LOCATION = ("data", "root", "download")
"""Fields of `DataOptions` with the location of the data."""


@contextmanager
def join_comparison(comparison: Comparison, folder: Path, report: Callable[[str], object]) -> Iterator[None]:
    """Write the plan to a folder, and lock the folder against other comparisons within this context.

    Raises:
        InUseError: Another comparison runs in the folder.
        SenetError: The folder can't be written to.
    """
    if not (folder / PLAN).is_file():  # written before locking, so that a second process finds it
        comparison.write(folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock_folder(folder))
        except InUseError as error:
            if not comparison.trains_as(Comparison.read(folder)):
                raise
            report(f"helping {error.holder} with {folder}")
        else:
            comparison.write(folder)
        yield


def train_all(
    comparison: Comparison, folder: Path, data: Data, console: Console, *, after_each: Callable[[list[str]], object]
) -> tuple[list[str], list[str]]:
    """Train every unfinished run that no other process is training.

    A run with a non-finite loss is reported as failed, and the others continue.

    Args:
        comparison: The comparison.
        folder: Folder of the comparison. Each run gets a folder in it.
        data: The opened data.
        console: Console for progress bar and messages.
        after_each: Called after each run with the failed runs so far.

    Returns:
        A sentence for each failed run, and one for each run of another process.

    Raises:
        SenetError: A run has invalid options.
        Interrupted: The user pressed Ctrl-C. The run's state is saved.
    """
    failed: dict[Path, str] = {}
    training_runs = list(comparison.training_runs(folder))
    report = line_printer(console)
    trained = True
    while trained:  # once more after the last run, since another process may have died
        trained = False
        elsewhere = []
        for number, training_run in enumerate(training_runs, 1):
            if training_run.folder in failed or finished_rows(training_run.folder) is not None:
                continue
            name = f"{training_run.variant}, seed {training_run.seed}"
            try:
                with lock_folder(training_run.folder):
                    pass  # reports a run of another process before anything is built
                state = "resuming" if has_run(training_run.folder) else "training"
                report(f"run {number} of {len(training_runs)}: {state} {name}, in {training_run.folder}")
                train_run(training_run, data, console)
            except Diverged as error:
                failed[training_run.folder] = f"{name}: {error}"
                report(failed[training_run.folder])
            except InUseError as error:
                elsewhere.append(f"{name}: in training by {error.holder}")
                continue
            trained = True
            after_each(list(failed.values()))
    return list(failed.values()), elsewhere


def train_run(training_run: Run, data: Data, console: Console) -> None:
    """Start or resume one training. One on several devices gets processes of its own.

    Raises:
        SenetError: The run has invalid options, or its process failed.
        Interrupted: The user pressed Ctrl-C. The run's state is saved.
    """
    several = _several_devices(training_run.job.run)
    (_train_in_processes if several else _train)(training_run, data, console)


def _train(training_run: Run, data: Data, console: Console) -> None:
    if has_run(training_run.folder):
        _resumed_job(training_run).resume(training_run.folder, console, data=data)
    else:
        training_run.job.start(training_run.folder, console, data=data)


def _resumed_job(training_run: Run) -> Job:
    """Return the saved job with its hashes, and with the current location of the data."""
    return replace(Job.read(training_run.folder), source=training_run.job.source, run=training_run.job.run)


def _several_devices(run: RunOptions) -> bool:
    import torch

    several = torch.accelerator.is_available() and torch.accelerator.device_count() > 1
    return run.devices > 1 or run.nodes > 1 or (run.devices == 0 and several)


def _train_in_processes(training_run: Run, data: Data, console: Console) -> None:  # noqa: ARG001 - called like the other
    """Train in a separate `senet train` process, which starts the processes of the other devices for each run."""
    job = _resumed_job(training_run) if has_run(training_run.folder) else training_run.job.pinned(data)
    write_json(training_run.folder, JOB, job.to_dict())
    why = training_run.folder / DIVERGED
    why.unlink(missing_ok=True)
    code = subprocess.run(
        [sys.executable, "-m", "senet", "train", "--resume", str(training_run.folder)], check=False
    ).returncode
    if code in (130, -signal.SIGINT):
        raise Interrupted
    if code and why.is_file():  # a diverged run is a result, as on one device
        raise Diverged(why.read_text(encoding="utf-8"))
    if code:
        raise SenetError(f"{training_run.folder}: its training ended with exit code {code}")


def refuse_others(comparison: Comparison, folder: Path, data: Data) -> None:
    """Refuse existing runs with other hyperparameters, since their results can't be compared.

    Args:
        comparison: The comparison.
        folder: Folder of the runs.
        data: The data.

    Raises:
        SenetError: A run differs. The message names the run and the difference.
    """
    for training_run in comparison.training_runs(folder):
        if not has_run(training_run.folder):
            continue
        saved = Job.read(training_run.folder)
        saved.refuse_changed(training_run.folder, data)
        there, here = (_settings(job) for job in (saved, training_run.job))
        changed = [key for key in here if there.get(key) != here[key]]
        if changed:
            key = changed[0]
            raise SenetError(
                f"{training_run.folder} was started with {key}={there.get(key)}, not {here[key]}; "
                "choose another --out, or continue as started with --resume"
            )


def _settings(job: Job) -> dict[str, Any]:
    """Flatten the settings that change a training's result. Of its execution, `DECISIVE` do."""
    # Through JSON, since a job from a file has lists instead of tuples.
    values = json.loads(json.dumps(replace(job, recipe=replace(job.recipe, expects="")).to_dict()))
    recipe, run = values.pop("recipe"), values.pop("run")
    del values["digest"], values["division"], values["sha256"]
    for name in LOCATION:  # the digest identifies the data, see `refuse_others`
        del values["source"][name]
    execution = {key: run[key] for key in DECISIVE}
    return values | {f"recipe.{key}": value for key, value in recipe.items()} | execution


def finished_rows(folder: Path) -> list[dict[str, float]] | None:
    """Return the rows of a finished run, None for an unfinished one."""
    if not has_run(folder) or Job.read(folder).status(folder).outcome is None:
        return None
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
