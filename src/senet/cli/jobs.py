"""The training that the options of `train`, `retrofit` and `compare` describe."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from senet.cli import external
from senet.cli import options as shared
from senet.cli.config import read_run
from senet.cli.fields import given_fields
from senet.data.augmentation import Augmentation
from senet.errors import SenetError
from senet.tasks import CLASSIFICATION, task_named
from senet.training.job import DataOptions, Job
from senet.training.model_initialization import SCRATCH, ModelInitialization
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import fine_tuning, recipe_for, recipe_named

__all__ = [
    "PLACE",
    "chosen_initialization",
    "chosen_recipe",
    "default_folder",
    "job_data",
    "moved",
    "overridden",
    "plan_line",
    "refuse_fixed",
    "repeated",
    "resumed",
    "resumed_folder",
    "run_options",
    "with_head",
]

MAY_CHANGE = {"command", "debug", "json", "resume", "out", "config", "dry_run", *(f.name for f in fields(RunOptions))}
"""Options that any resumed run or comparison takes: how it runs, and what is printed."""

PLACE = ("data", "data_root", "download")
"""Options that say where the data lies."""


NETWORK = ("task", "head", "head_attention", "attention", "placement", "stages", "model_kwargs", "pretrained",
           "prefix", "ignore", "weights")  # fmt: skip
"""Options that say what the network is, besides its name."""

DATA_FIELDS = {
    "data": "data", "val_fraction": "val_fraction", "split_seed": "split_seed", "download": "download",
    "data_root": "root", "class_names": "classes", "instances": "instances", "limit": "limit", "white_level": "white",
}  # fmt: skip
"""Option to the field of `DataOptions` that it gives."""


def chosen_initialization(
    options: argparse.Namespace, network: dict[str, Any], *, pretrained: bool
) -> ModelInitialization:
    """The network and the weights that `--model`, `--checkpoint` and `--pretrained` mean.

    Args:
        options: As parsed.
        network: Options of the network.
        pretrained: Whether to take published weights where the user doesn't say.

    Raises:
        SenetError: They contradict each other, or mean nothing.
    """
    model, path = options.model, options.checkpoint
    if model is not None:
        shared.refuse_checkpoint(model)
    if path is not None:
        if options.pretrained is not None:
            raise SenetError(f"{'--' if options.pretrained else '--no-'}pretrained: the weights are those of {path}")
        if external.is_external(path):
            return with_head(options, external.external_initialization(options, network, path, model))
        external.refuse_choice(options, f"{path} is a checkpoint of this package, which holds one network")
        if network:
            raise SenetError(
                f"--{next(iter(network))} would change the network, which is that of {path}; "
                "`senet retrofit` inserts attention into it"
            )
        return with_head(options, ModelInitialization.from_checkpoint(path, model, options.size, task=options.task))
    external.refuse_choice(options, "it is about another program's file, and --checkpoint names none")
    if model is None:
        raise SenetError("the network is missing: give MODEL, --checkpoint PATH or --resume DIR; --help says more")
    begin = (
        ModelInitialization.from_pretrained
        if (pretrained if options.pretrained is None else options.pretrained)
        else ModelInitialization.from_scratch
    )
    return with_head(options, begin(model, network, options.size, task=options.task or CLASSIFICATION))


def with_head(options: argparse.Namespace, init: ModelInitialization) -> ModelInitialization:
    """With the head that `--head` and `--head-attention` mean; a network that has one keeps it."""
    given = [name for name in ("head", "head_attention") if getattr(options, name) is not None]
    task = task_named(init.task)
    if not given and (not task.has_heads or ":" in init.model or init.head):
        return init
    if init.head or not task.has_heads or ":" in init.model:
        raise SenetError(f"--{given[0].replace('_', '-')}: {init.model} comes with its own head")
    from senet.nn import parse_attention
    from senet.tasks.dense import DenseTask
    from senet.tasks.head import parse_head

    assert isinstance(task, DenseTask)
    attention = parse_attention(options.head_attention) if options.head_attention else None
    head = parse_head(options.head or task.default_head, attention, task.heads)
    return replace(init, head=head.to_dict())


def chosen_recipe(options: argparse.Namespace, init: ModelInitialization) -> Recipe:
    """The recipe that is named, else the one for these images, gentle where the weights are good already.

    Raises:
        SenetError: There is no such recipe, a value is impossible, or an option would have no effect.
    """
    size = options.size or (init.preprocessing or init.preprocessing_for()).size
    if options.recipe:
        recipe = recipe_named(options.recipe)
    else:
        recipe = recipe_named(recipe_for(options.data, size))
        recipe = recipe if init.weights == SCRATCH else fine_tuning(recipe)
    return overridden(recipe, options)


def overridden(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """A recipe with what the user gives values for; another length stretches it, another batch size scales its rate."""
    given = given_fields(options, Recipe)
    if "optimizer" in given:
        recipe = recipe.for_optimizer(given["optimizer"])
    if "epochs" in given:
        recipe = recipe.for_epochs(given["epochs"])
    if "batch_size" in given and "lr" not in given:
        recipe = recipe.for_batch_size(given["batch_size"])
    augmentation = recipe.augmentation.changed(**given_fields(options, Augmentation))
    recipe = replace(recipe, **given, augmentation=augmentation)
    unread = [name for name in ("step_epochs", "step_factor") if name in given and recipe.schedule != "step"]
    if unread:
        flag = f"--{unread[0].replace('_', '-')}"
        raise SenetError(f"{flag} is read by --schedule step only; the schedule is {recipe.schedule}")
    return recipe


def job_data(options: argparse.Namespace, init: ModelInitialization | None = None) -> DataOptions:
    """The data, thinned if `--limit` says so, with the white that `--white-level` says, at a place that holds anywhere.

    Args:
        options: As parsed.
        init: What a training begins with. On the data that its weights were trained on, their split stays the default:
            images that they learned are not validated on.
    """
    from senet.data.request import storable

    source = replace(shared.data_options(options), limit=options.limit, white=options.white_level).absolute()
    record = init.trained_on() if init else None
    if record is None or record.split_seed is None or storable(source.data) != record.name:
        return source
    return replace(
        source,
        val_fraction=record.val_fraction if options.val_fraction is None else options.val_fraction,
        split_seed=record.split_seed if options.split_seed is None else options.split_seed,
    )


def run_options(options: argparse.Namespace) -> RunOptions:
    """How it runs."""
    return RunOptions(**given_fields(options, RunOptions))


def repeated(options: argparse.Namespace) -> Job:
    """The run whose `run.json` `--config` names, with what the other options change.

    Its digest of the data is empty where they say which images are trained on.

    Raises:
        SenetError: The file can't be read, or an option would change a network that it doesn't name.
    """
    job = read_run(options.config)
    given = {name for name, value in vars(options).items() if value is not None}
    options.size, options.task = options.size or job.network.size, options.task or job.network.task
    if options.model is not None or options.checkpoint is not None:
        init = chosen_initialization(options, shared.network_options(options), pretrained=False)
    else:
        fixed = [name for name in NETWORK if name in given]
        if fixed:
            raise SenetError(
                f"--{fixed[0].replace('_', '-')} would change the network of {options.config}; give MODEL with it"
            )
        init = replace(job.network, size=options.size)
    data = {field: getattr(options, name) for name, field in DATA_FIELDS.items() if name in given}
    recipe = recipe_named(options.recipe) if options.recipe else job.recipe
    return Job(
        source=replace(job.source, **data).absolute(),
        network=init,
        recipe=overridden(recipe, options),
        run=replace(job.run, **given_fields(options, RunOptions)),
        digest="" if data else job.digest,
    )


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
        run=replace(job.run, **given_fields(options, RunOptions)),
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


def _in_words(init: ModelInitialization) -> str:
    return f"{init.model} with {init.head['kind']}" if "kind" in init.head else init.model


def plan_line(verb: str, job: Job, folder: Path) -> str:
    """What is going to happen, in a line."""
    recipe = job.recipe
    return (
        f"{verb} {_in_words(job.network)} on {job.source.data}: {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"{recipe.optimizer} lr {recipe.lr:g} ({recipe.schedule}), precision {job.run.precision}, "
        f"seed {recipe.seed}; into {folder}"
    )
