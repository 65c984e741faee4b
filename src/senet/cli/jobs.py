"""What the verbs that train share: the options of a training, and the job that they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from senet.cli import external
from senet.cli import options as shared
from senet.data.augmentation import Augmentation
from senet.errors import SenetError
from senet.tasks import CLASSIFICATION, TASKS, task_named
from senet.training.job import DataOptions, Job
from senet.training.model_initialization import SCRATCH, ModelInitialization, is_checkpoint
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import RECIPES, fine_tuning, recipe_for, recipe_named

__all__ = [
    "PLACE",
    "add_job_options",
    "chosen_initialization",
    "chosen_recipe",
    "default_folder",
    "job_data",
    "moved",
    "overridden",
    "plan_line",
    "refuse_fixed",
    "resumed",
    "resumed_folder",
    "run_options",
    "with_head",
]

MAY_CHANGE = {"verb", "debug", "json", "resume", "out", *(f.name for f in fields(RunOptions))}
"""Options that any resumed run or comparison takes: how it runs, and what is printed."""

PLACE = ("data", "data_root", "download")
"""Options that say where the data lies."""


def add_job_options(parser: argparse.ArgumentParser, *, pretrained: str) -> None:
    """The options of a training.

    Args:
        parser: Gets them.
        pretrained: When the network begins with its published weights by default, in words.
    """
    parser.add_argument(
        "--task", metavar="T", help=f"{', '.join(TASKS)} (default: what --init is for, else {CLASSIFICATION})"
    )
    parser.add_argument(
        "--head",
        metavar="H",
        help="what stands on the network: faster_rcnn, retinanet or fcos; unet, deeplabv3plus or fpn; with options "
        "such as fcos:channels=128",
    )
    parser.add_argument("--head-attention", metavar="A", help="attention in the head, as --attention: se, scse, ...")
    parser.add_argument("--model", metavar="M", help=f"{shared.NETWORKS}; or a checkpoint, as --init")
    parser.add_argument(
        "--init",
        metavar="X",
        help="begin with a checkpoint's network and weights (a .safetensors file or a folder), or with the weights of "
        "another program's file for --model",
    )
    parser.add_argument(
        "--pretrained",
        action=argparse.BooleanOptionalAction,
        help=f"begin with the weights that are published for --model (default: {pretrained})",
    )
    parser.add_argument("--recipe", metavar="R", help=f"{', '.join(RECIPES)}; default: by data and image size")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: a folder in runs/ named after the options")
    parser.add_argument(
        "--resume", nargs="?", const="", metavar="DIR", help="go on with the run in DIR (or in --out), as it was begun"
    )
    parser.add_argument("--size", type=shared.parse_size, metavar="N", help="pixels: 224, or 256x192 (height x width)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    external.add_choice_options(parser, "the file of --init")
    shared.add_data_options(parser, required=False)
    parser.add_argument("--limit", type=int, metavar="N", help="train on at most N images, always the same")
    parser.add_argument(
        "--white-level",
        type=shared.white_level,
        metavar="LEVEL|auto",
        help="white of 16-bit grey images, such as 4095 for 12 bits; auto: of as many bits as the largest value needs "
        "(default: what the weights were trained with, else 65535)",
    )
    shared.add_network_options(parser)
    shared.add_field_options(parser, "recipe", Recipe, leave_out=("augmentation", "expects"))
    shared.add_field_options(parser, "augmentation", Augmentation)
    shared.add_field_options(parser, "how it runs", RunOptions)


def chosen_initialization(
    options: argparse.Namespace, network: dict[str, Any], *, pretrained: bool
) -> ModelInitialization:
    """The network and the weights that `--model`, `--init` and `--pretrained` mean.

    Args:
        options: As parsed.
        network: Options of the network.
        pretrained: Whether to take published weights where the user doesn't say.

    Raises:
        SenetError: They contradict each other, or mean nothing.
    """
    model, init = options.model, options.init
    if init is None and model is not None and is_checkpoint(model):
        model, init = None, model
    if init is not None:
        if options.pretrained is not None:
            raise SenetError(f"{'--' if options.pretrained else '--no-'}pretrained: the weights are those of {init}")
        if external.is_external(init):
            return with_head(options, external.external_initialization(options, network, init, model))
        external.refuse_choice(options, f"{init} is a checkpoint of this package, which holds one network")
        if network:
            raise SenetError(
                f"--{next(iter(network))} would change the network, which is that of {init}; "
                "`senet retrofit` inserts attention into it"
            )
        return with_head(options, ModelInitialization.checkpoint(init, model, options.size, task=options.task))
    external.refuse_choice(options, "for the file that --init names, and there is none")
    if model is None:
        raise SenetError("--model is missing (or --resume DIR); --help says more")
    begin = (
        ModelInitialization.public
        if (pretrained if options.pretrained is None else options.pretrained)
        else ModelInitialization.built
    )
    return with_head(options, begin(model, network, options.size, task=options.task or CLASSIFICATION))


def with_head(options: argparse.Namespace, start: ModelInitialization) -> ModelInitialization:
    """With the head that `--head` and `--head-attention` mean; a network that has one keeps it."""
    said = [name for name in ("head", "head_attention") if getattr(options, name) is not None]
    task = task_named(start.task)
    if not said and (not task.has_heads or ":" in start.model or start.head):
        return start
    if start.head or not task.has_heads or ":" in start.model:
        raise SenetError(f"--{said[0].replace('_', '-')}: {start.model} comes with its own head")
    from senet.nn import parse_attention
    from senet.tasks.dense import DenseTask
    from senet.tasks.head import parse_head

    assert isinstance(task, DenseTask)
    attention = parse_attention(options.head_attention) if options.head_attention else None
    head = parse_head(options.head or task.default_head, attention, task.heads)
    return replace(start, head=head.to_dict())


def chosen_recipe(options: argparse.Namespace, start: ModelInitialization) -> Recipe:
    """The recipe that is named, else the one for these images, gentle where the weights are good already.

    Raises:
        SenetError: There is no such recipe, a value is impossible, or an option would have no effect.
    """
    size = options.size or (start.preprocessing or start.images()).size
    if options.recipe:
        recipe = recipe_named(options.recipe)
    else:
        recipe = recipe_named(recipe_for(options.data, size))
        recipe = recipe if start.weights == SCRATCH else fine_tuning(recipe)
    return overridden(recipe, options)


def overridden(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """A recipe with what the user gives values for; another length stretches it, another batch size scales its rate."""
    given = shared.given_fields(options, Recipe)
    if "optimizer" in given:
        recipe = recipe.for_optimizer(given["optimizer"])
    if "epochs" in given:
        recipe = recipe.for_epochs(given["epochs"])
    if "batch_size" in given and "lr" not in given:
        recipe = recipe.for_batch_size(given["batch_size"])
    augmentation = recipe.augmentation.changed(**shared.given_fields(options, Augmentation))
    recipe = replace(recipe, **given, augmentation=augmentation)
    unread = [name for name in ("step_epochs", "step_factor") if name in given and recipe.schedule != "step"]
    if unread:
        flag = f"--{unread[0].replace('_', '-')}"
        raise SenetError(f"{flag} is read by --schedule step only; the schedule is {recipe.schedule}")
    return recipe


def job_data(options: argparse.Namespace, start: ModelInitialization | None = None) -> DataOptions:
    """The data, thinned if `--limit` says so, with the white that `--white-level` says, at a place that holds anywhere.

    Args:
        options: As parsed.
        start: What a training begins with. On the data that its weights were trained on, their split stays the default:
            images that they learned are not validated on.
    """
    from senet.data.request import storable

    source = replace(shared.data_options(options), limit=options.limit, white=options.white_level).absolute()
    record = start.trained_on() if start else None
    if record is None or record.split_seed is None or storable(source.data) != record.name:
        return source
    return replace(
        source,
        val_fraction=record.val_fraction if options.val_fraction is None else options.val_fraction,
        split_seed=record.split_seed if options.split_seed is None else options.split_seed,
    )


def run_options(options: argparse.Namespace) -> RunOptions:
    """How it runs."""
    return RunOptions(**shared.given_fields(options, RunOptions))


def resumed(options: argparse.Namespace) -> tuple[Path, Job]:
    """The run that `--resume` means, with what may change of it: its length, where its data lies, how it runs.

    Raises:
        SenetError: There is none, or the user wants to change what it is.
    """
    folder = resumed_folder(options, "run")
    refuse_fixed(options, {*PLACE, "epochs"}, "run; leave it out, or start anew in another --out")
    job = Job.read(folder)
    return folder, replace(
        job,
        source=moved(job.source, options),
        recipe=job.recipe if options.epochs is None else replace(job.recipe, epochs=options.epochs),
        run=replace(job.run, **shared.given_fields(options, RunOptions)),
    )


def moved(source: DataOptions, options: argparse.Namespace) -> DataOptions:
    """The same data where `PLACE` says that it lies now."""
    changes = {"data": options.data, "root": options.data_root, "download": options.download}
    return replace(source, **{name: value for name, value in changes.items() if value is not None}).absolute()


def resumed_folder(options: argparse.Namespace, what: str) -> Path:
    """The folder that `--resume DIR`, or `--resume` with `--out DIR`, names.

    Args:
        options: As parsed.
        what: Is in the folder, in a word.

    Raises:
        SenetError: Neither names one, or they name two.
    """
    if options.resume and options.out is not None and Path(options.resume).resolve() != options.out.resolve():
        raise SenetError(f"--out {options.out}: the {what} in {options.resume} stays there; leave --out out")
    if not options.resume and options.out is None:
        raise SenetError(f"--resume needs the {what}'s folder: --resume DIR")
    return Path(options.resume or options.out)


def refuse_fixed(options: argparse.Namespace, may_change: Collection[str], otherwise: str) -> None:
    """Refuse every option that was given, except what a resumed run or comparison can take.

    Args:
        options: As parsed. An option that was not given is None.
        may_change: Names of options that it can take, beside `MAY_CHANGE`.
        otherwise: End of the sentence: of what, and what the user can do.

    Raises:
        SenetError: Names the first such option.
    """
    taken = MAY_CHANGE.union(may_change)
    fixed = [name for name, value in vars(options).items() if value is not None and name not in taken]
    if fixed:
        raise SenetError(f"--{fixed[0].replace('_', '-')} can't change in a resumed {otherwise}")


def default_folder(model: str, *words: str) -> Path:
    """Where a run goes whose user didn't say: named after the network and what stands last in each other word."""
    last = [word.rstrip("/").replace(":", "/").rsplit("/", 1)[-1] for word in words]
    return Path("runs") / "-".join([model.replace(":", "."), *last])


def _in_words(start: ModelInitialization) -> str:
    return f"{start.model} with {start.head['kind']}" if "kind" in start.head else start.model


def plan_line(verb: str, job: Job, folder: Path) -> str:
    """What is going to happen, in a line."""
    recipe = job.recipe
    return (
        f"{verb} {_in_words(job.network)} on {job.source.data}: {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"{recipe.optimizer} lr {recipe.lr:g} ({recipe.schedule}), precision {job.run.precision}, "
        f"seed {recipe.seed}; into {folder}"
    )
