"""Train a network on images.

  senet train --data folder:PATH --model se_resnet50 --out runs/flowers
  senet train --resume runs/flowers

Leaves in --out: best.safetensors and last.safetensors, each with a .json that says what it is, metrics.csv,
curves.png, TensorBoard logs, and what --resume needs. Options that a recipe has too override it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from senet.cli import options as shared
from senet.cli.output import print_json, print_table
from senet.data.augmentation import Augmentation
from senet.errors import SenetError
from senet.training.job import Job
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import RECIPES, recipe_for, recipe_named

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument("--model", metavar="M", help="a name of `senet list`, or module:function of your own network")
    parser.add_argument("--recipe", metavar="R", help=f"{', '.join(RECIPES)}; default: by data and image size")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/MODEL-DATA")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="DIR", help="go on with the run in DIR (or in --out), as it was begun"
    )
    parser.add_argument("--size", type=shared.parse_size, metavar="N", help="pixels: 224, or 256x192 (height x width)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    shared.add_data_options(parser, required=False)
    shared.add_network_options(parser)
    shared.add_field_options(parser, "recipe", Recipe, leave_out=("augmentation", "expects"))
    shared.add_field_options(parser, "augmentation", Augmentation)
    shared.add_field_options(parser, "how it runs", RunOptions)


def run(options: argparse.Namespace) -> int:
    """Train, or go on with a training."""
    from rich.console import Console

    from senet.training.interruption import Interrupted
    from senet.training.job import is_first_process

    console = Console(stderr=True)
    folder, job = _resumed(options) if options.resume is not None else _new(options)
    begin = job.resume if options.resume is not None else job.start
    if is_first_process() and not options.json:
        console.print(_plan(job, folder), highlight=False, soft_wrap=True)
    try:
        outcome = begin(folder, console)
    except Interrupted:
        console.print(f"stopped and saved; go on with: senet train --resume {folder}", highlight=False, soft_wrap=True)
        return 130
    if not is_first_process():
        return 0
    last, best = outcome.rows[-1], outcome.best
    if options.json:
        print_json({"folder": str(folder), "best": best, "last": last, "seconds": outcome.seconds})
        return 0
    rows = []
    for name, row in (("best", best), ("last", last)):
        top5 = f"{row['val_top5']:.2%}" if "val_top5" in row else "-"
        rows.append([name, f"{row['epoch']:.0f}", f"{row['val_loss']:.4f}", f"{row['val_top1']:.2%}", top5,
                     f"{row['images_per_second']:.0f}", str(folder / f"{name}.safetensors")])  # fmt: skip
    title = f"{job.model} on {job.source.data}, {last['epoch']:.0f} epochs in {outcome.seconds:.0f} s"
    print_table(("", "epoch", "loss", "top-1", "top-5", "images/s", "checkpoint"), rows, title=title)
    if outcome.broken:
        console.print(outcome.broken, highlight=False)
    return 0


def _resumed(options: argparse.Namespace) -> tuple[Path, Job]:
    folder = Path(options.resume) if options.resume else options.out
    if folder is None:
        raise SenetError("--resume needs the run's folder: --resume DIR")
    begun_with = ("data", "model", "recipe", "size", "attention", "placement", "stages", "option")
    changed = [name for name in begun_with if getattr(options, name) is not None]
    changed += [*shared.given_fields(options, Recipe), *shared.given_fields(options, Augmentation)]
    if changed:
        option = f"--{changed[0].replace('_', '-')}"
        raise SenetError(f"{option} can't change in a resumed run; leave it out, or start anew in another --out")
    job = Job.read(folder)
    return folder, replace(job, run=replace(job.run, **shared.given_fields(options, RunOptions)))


def _new(options: argparse.Namespace) -> tuple[Path, Job]:
    for name in ("data", "model"):
        if getattr(options, name) is None:
            raise SenetError(f"--{name} is missing (or --resume DIR); `senet train --help` says more")
    job = Job(
        source=shared.data_options(options),
        model=options.model,
        options=shared.network_options(options),
        size=options.size,
        recipe=_recipe(options),
        run=RunOptions(**shared.given_fields(options, RunOptions)),
    )
    words = options.data.rstrip("/").replace(":", "/").rsplit("/", 1)[-1]
    return options.out or Path("runs") / f"{options.model.replace(':', '.')}-{words}", job


def _recipe(options: argparse.Namespace) -> Recipe:
    size = options.size or _size_of(options)
    recipe = recipe_named(options.recipe or recipe_for(options.data, size))
    given = shared.given_fields(options, Recipe)
    if "epochs" in given:
        recipe = recipe.for_epochs(given["epochs"])
    if "batch_size" in given and "lr" not in given:
        recipe = recipe.for_batch_size(given["batch_size"])
    augmentation = replace(recipe.augmentation, **shared.given_fields(options, Augmentation))
    return replace(recipe, **given, augmentation=augmentation)


def _size_of(options: argparse.Namespace) -> tuple[int, int]:
    """The size that the network was made for: it chooses the recipe where the user chose neither."""
    if options.recipe or ":" in options.model:
        return (224, 224)
    from senet.zoo import model_spec

    return model_spec(options.model).preprocessing.size


def _plan(job: Job, folder: Path) -> str:
    recipe = job.recipe
    return (
        f"training {job.model} on {job.source.data}: {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"{recipe.optimizer} lr {recipe.lr:g} ({recipe.schedule}), precision {job.run.precision}, "
        f"seed {recipe.seed}; into {folder}"
    )
