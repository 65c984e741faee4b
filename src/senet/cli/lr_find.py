"""Suggest a learning rate for a training.

A few steps are trained while the learning rate rises. The suggestion is the rate at which the loss falls fastest. All
options of the network, the data and the recipe mean the same as for `senet train`. The network is thrown away, and
nothing is written except the chart of --out.

Examples:
  senet lr-find se_resnet50 --data folder:PATH --out lr-find.png
  senet lr-find --checkpoint runs/flowers --data folder:OTHER --optimizer adamw
  senet lr-find se_cifar_resnet20 --data digits --batch-size 32 --steps 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import jobs
from senet.cli import options as shared
from senet.cli.config import add_config_options
from senet.cli.job_options import add_job_options
from senet.cli.output import counting, print_json
from senet.cli.parser import add_switch
from senet.cli.teacher import add_teacher_options, chosen_teacher
from senet.cli.values import positive
from senet.errors import SenetError
from senet.training.job import Job

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet lr-find MODEL --data DATA [--out FILE] [--recipe NAME] [--batch-size N]
                     [--start RATE] [--end RATE] [--steps N] [options, see below]"""

START, END, STEPS = 1e-6, 10.0, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_job_options(parser, pretrained="no", output=_add_output_options)
    add_teacher_options(parser)
    group = parser.add_argument_group("test")
    group.add_argument(
        "--start", type=float, default=START, metavar="RATE", help="first learning rate (default: %(default)g)"
    )
    group.add_argument(
        "--end", type=float, default=END, metavar="RATE", help="last learning rate (default: %(default)g)"
    )
    group.add_argument(
        "--steps", type=positive, default=STEPS, metavar="N", help="optimizer steps (default: %(default)s)"
    )


def _add_output_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out", type=Path, metavar="FILE", help="chart of the loss over the learning rate, a .png file (default: none)"
    )
    add_config_options(group, record=False, dry_run=False)
    add_switch(group, "--json", help="print the suggestion and the curve as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the test, print the suggestion and draw the chart."""
    from senet.console import plain_console
    from senet.training.interruption import Interrupted
    from senet.training.lr_chart import draw_range
    from senet.training.lr_finder import find_learning_rate

    out: Path | None = options.out
    if out is not None and (out.suffix.lower() != ".png" or out.is_dir() or not out.resolve().parent.is_dir()):
        raise SenetError(f"--out {out}: give the name of a .png file in an existing folder")
    job, console = _job(options), plain_console()
    recipe = job.recipe
    about = f"{job.network.model} on {job.source.data}, {recipe.optimizer}, batch {recipe.batch_size}"
    try:
        with counting("trying learning rates") as progress:
            found = find_learning_rate(
                job, start=options.start, end=options.end, steps=options.steps, console=console, progress=progress
            )
    except Interrupted:
        console.print("stopped; nothing was written", soft_wrap=True)
        return 130
    if out is not None:
        draw_range(found, out, current=recipe.lr, title=about)
    if options.json:
        print_json({"model": job.network.model, "data": job.source.data, "recipe_lr": recipe.lr} | found.to_dict())
        return 0
    print(f"{about}: {len(found.rates)} steps, learning rate {found.rates[0]:g} to {found.rates[-1]:.2g}")
    if found.suggestion is None:
        print("no suggestion: the loss never falls; try more --steps or another --start")
    else:
        print(f"suggestion: --lr {found.suggestion:g}, where the loss falls fastest (the recipe has {recipe.lr:g})")
    if out is not None:
        print(f"chart in {out}")
    return 0


def _job(options: argparse.Namespace) -> Job:
    if options.data is None:
        raise SenetError("--data is missing; `senet lr-find --help` describes it")
    init = jobs.chosen_initialization(options, shared.network_options(options), pretrained=False)
    return Job(
        source=jobs.job_data(options, init),
        network=init,
        recipe=jobs.chosen_recipe(options, init, finetune=True),
        run=jobs.run_options(options),
        teacher=chosen_teacher(options),
    )
