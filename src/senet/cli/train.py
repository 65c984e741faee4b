"""Train a network on images.

  senet train --data folder:PATH --model se_resnet50 --out runs/flowers
  senet train --data folder:PATH --model torchvision:resnet50 --pretrained --out runs/finetuned
  senet train --resume runs/flowers

Leaves in --out: best.safetensors and last.safetensors, each with a .json that says what it is, metrics.csv,
curves.png, TensorBoard logs, and what --resume needs. Options that a recipe has too override it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import jobs
from senet.cli import options as shared
from senet.cli.output import print_json, print_table
from senet.errors import SenetError
from senet.tasks import task_named
from senet.training.job import Job

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    jobs.add_job_options(parser, pretrained="no")


def run(options: argparse.Namespace) -> int:
    """Train, or go on with a training."""
    from senet.console import plain_console
    from senet.training.interruption import Interrupted
    from senet.training.job import is_first_process

    console = plain_console()
    folder, job = jobs.resumed(options) if options.resume is not None else _new(options)
    begin = job.resume if options.resume is not None else job.start
    if is_first_process() and not options.json:
        console.print(jobs.plan_line("training", job, folder), soft_wrap=True)
    try:
        outcome = begin(folder, console)
    except Interrupted:
        if is_first_process():
            console.print(f"stopped and saved; go on with: senet train --resume {folder}", soft_wrap=True)
        return 130
    if not is_first_process():
        return 0
    last, best = outcome.rows[-1], outcome.best
    if options.json:
        print_json({"folder": str(folder), "best": best, "last": last, "seconds": outcome.seconds})
        return 0
    rows = []
    metrics = task_named(job.network.task).metrics
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
    if options.data is None:
        raise SenetError("--data is missing (or --resume DIR); `senet train --help` says more")
    start = jobs.chosen_initialization(options, shared.network_options(options), pretrained=False)
    job = Job(
        source=jobs.job_data(options, start),
        network=start,
        recipe=jobs.chosen_recipe(options, start),
        run=jobs.run_options(options),
    )
    return options.out or jobs.default_folder(start.model, options.data), job
