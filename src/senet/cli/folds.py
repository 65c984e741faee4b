"""`senet train --folds N`: train on every fold and print the mean and spread."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from senet.cli import jobs
from senet.cli.dry_run import print_plan
from senet.cli.fields import given_fields
from senet.cli.output import print_json, print_table, span
from senet.comparison.cross_validation import PLAN, PREDICTIONS, SUMMARY, CrossValidation
from senet.console import line_printer, plain_console
from senet.errors import SenetError
from senet.tasks import task_named
from senet.training.job import Job
from senet.training.recipe import RunOptions

__all__ = ["is_cross_validation", "resume_folds", "train_folds"]


def is_cross_validation(options: argparse.Namespace) -> bool:
    """Whether `--resume` names the folder of a cross-validation."""
    return options.resume is not None and (jobs.resumed_folder(options, "run") / PLAN).is_file()


def resume_folds(options: argparse.Namespace) -> int:
    """Continue a cross-validation. The data's path and the running options may change."""
    folder = jobs.resumed_folder(options, "run")
    jobs.refuse_fixed(options, jobs.LOCATION, "cross-validation; leave it out, or start a new one in another --out")
    job = CrossValidation.read(folder).job
    job = replace(
        job, source=jobs.moved(job.source, options), run=replace(job.run, **given_fields(options, RunOptions))
    )
    return train_folds(options, folder, job)


def train_folds(options: argparse.Namespace, folder: Path, job: Job) -> int:
    """Train on every fold that isn't finished, and print the summary."""
    from senet.training.interruption import Interrupted

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SenetError("--folds starts the processes of each training itself (--devices N): run it once")
    validation = CrossValidation(job)
    if options.dry_run:
        first = next(validation.runs(folder))
        print_plan(first.job, first.folder, as_json=options.json)
        return 0
    console = plain_console()
    report = line_printer(console)
    if not options.json:
        report(jobs.plan_line(f"training on each of {job.source.folds} folds,", job, folder))
    try:
        run = validation.start if options.resume is None else validation.resume
        found = run(folder, console, report)
    except Interrupted:
        report(f"stopped and saved; continue with: senet train --resume {folder}")
        return 130
    if options.json:
        print_json(found)
    else:
        _print(found, folder, CrossValidation.read(folder).job)
    return 0


def _print(found: dict[str, Any], folder: Path, job: Job) -> None:
    metrics = task_named(job.network.task).metrics_for(job.recipe.metric)
    shown = [(name, metric) for name in ("best", "last") for metric in metrics if metric.key in found[name]]
    rows = [
        [str(row["fold"]), str(row["epoch"]), *(f"{row[name][metric.key]:.2%}" for name, metric in shown)]
        for row in found["rows"]
    ]
    over = [found[name][metric.key] for name, metric in shown]
    rows.append(["mean", "", *(f"{value['mean']:.2%}" for value in over)])
    rows.append(["sd", "", *("-" if value["sd"] is None else f"{value['sd']:.2%}" for value in over)])
    rows.append(["95 %", "", *(span(value["interval"]) for value in over)])
    head = ("fold", "best epoch", *(f"{metric.title}, {name}" for name, metric in shown))
    print_table(head, rows, title=f"{found['model']} on {found['data']}, {found['folds']} folds")
    print(f"summary: {folder / SUMMARY}")
    if (folder / PREDICTIONS).is_file():
        print(f"prediction of each image by the network that wasn't trained on it: {folder / PREDICTIONS}")
