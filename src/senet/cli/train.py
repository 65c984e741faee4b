"""Train a network on images.

The folder of the run gets best.safetensors and last.safetensors, each with a .json file of checkpoint metadata. It
also gets run.json, metrics.csv, curves.png, TensorBoard logs, and the states that --resume continues from.

--folds trains on all folds but one, for each fold, into fold1, fold2 and so on. It adds cross_validation.json with the
mean and standard deviation, and predictions.csv of a classifier.

--recipe selects a tested configuration. An option of the groups "recipe" and "augmentation" overrides its value.

Examples:
  senet train se_resnet50 --data folder:PATH --out runs/flowers
  senet train torchvision:resnet50 --pretrained --data folder:PATH
  senet train --checkpoint runs/flowers --data folder:OTHER --epochs 10
  senet train --config flowers.toml --lr 0.02 --dry-run
  senet train --config runs/flowers/run.json --out runs/again
  senet train se_resnet50 --data csv:FILE --folds 5 --group patient --out runs/folds
  senet train --resume runs/flowers
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli import jobs
from senet.cli import options as shared
from senet.cli.config import is_record
from senet.cli.dry_run import print_plan
from senet.cli.folds import is_cross_validation, resume_folds, train_folds
from senet.cli.job_options import add_job_options
from senet.cli.output import print_json, print_table
from senet.errors import SenetError
from senet.tasks import task_named
from senet.training.job import Job

if TYPE_CHECKING:
    from senet.data import Data

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet train MODEL --data DATA [--out DIR] [--recipe NAME] [--epochs EPOCHS]
                   [--batch-size N] [--lr RATE] [options, see below]
       senet train --checkpoint CHECKPOINT --data DATA [options, see below]
       senet train --config FILE [--dry-run] [options, see below]
       senet train --resume DIR"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_job_options(parser, pretrained="no", record=True)


def run(options: argparse.Namespace) -> int:
    """Train, or continue a training."""
    from senet.console import plain_console
    from senet.training.interruption import Interrupted
    from senet.training.job import is_first_process

    if is_cross_validation(options):
        return resume_folds(options)
    console = plain_console()
    folder, job = jobs.resumed(options) if options.resume is not None else _new(options)
    if job.source.folds is not None and job.source.fold is None:
        return train_folds(options, folder, job)
    if options.dry_run:
        print_plan(job, folder, as_json=options.json)
        return 0
    data = _unchanged_data(job, options) if is_record(options) else None
    begin = job.resume if options.resume is not None else job.start
    if is_first_process() and not options.json:
        console.print(jobs.plan_line("training", job, folder), soft_wrap=True)
        if options.resume is None and not is_record(options):
            console.print(jobs.recipe_note(options, job.network), soft_wrap=True)
    try:
        outcome = begin(folder, console, data=data)
    except Interrupted:
        if is_first_process():
            console.print(f"stopped and saved; continue with: senet train --resume {folder}", soft_wrap=True)
        return 130
    if not is_first_process():
        return 0
    last, best = outcome.rows[-1], outcome.best
    if options.json:
        print_json({"folder": str(folder), "best": best, "last": last, "seconds": outcome.seconds})
        return 0
    rows = []
    metrics = task_named(Job.read(folder).network.task).metrics_for(job.recipe.metric)
    for name, row in (("best", best), ("last", last)):
        loss = f"{row['val_loss']:.4f}" if "val_loss" in row else "-"
        shown = [f"{row[f'val_{s.key}']:.2%}" if f"val_{s.key}" in row else "-" for s in metrics]
        rows.append([name, f"{row['epoch']:.0f}", loss, *shown, f"{row['images_per_second']:.0f}",
                     str(folder / f"{name}.safetensors")])  # fmt: skip
    title = f"{job.network.model} on {job.source.data}, {last['epoch']:.0f} epochs in {outcome.seconds:.0f} s"
    head = ("", "epoch", "loss", *(score.title for score in metrics), "images/s", "checkpoint")
    print_table(head, rows, title=title)
    if outcome.corrupt_images:
        console.print(outcome.corrupt_images, soft_wrap=True)
    return 0


def _new(options: argparse.Namespace) -> tuple[Path, Job]:
    if is_record(options):
        job = jobs.repeated(options)
        return options.out or jobs.default_folder(job.network.model, job.source.data), job
    if options.data is None:
        raise SenetError("--data is missing (or --resume DIR); `senet train --help` says more")
    init = jobs.chosen_initialization(options, shared.network_options(options), pretrained=False)
    job = Job(
        source=jobs.job_data(options, init),
        network=init,
        recipe=jobs.chosen_recipe(options, init, finetune=True),
        run=jobs.run_options(options),
    )
    return options.out or jobs.default_folder(init.model, options.data), job


def _unchanged_data(job: Job, options: argparse.Namespace) -> Data:
    """Open the data of a repeated run, with a warning if images were added, removed or changed since."""
    from senet.training.job import is_first_process

    data = job.open_data()
    if job.digest not in ("", data.digest) and is_first_process():
        print(f"warning: {data.name} has changed since the run of {options.config}", file=sys.stderr)
    return data
