"""Build a training from the options of `train`, `retrofit` and `compare`."""

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
from senet.cli.teacher import chosen_teacher
from senet.data.augmentation import Augmentation
from senet.data.place import split_place
from senet.errors import SenetError
from senet.tasks import CLASSIFICATION, CLASSIFIERS, task_named
from senet.training.job import DataOptions, Job
from senet.training.model_initialization import SCRATCH, ModelInitialization
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import FINETUNE, fine_tuning, finetune_for, recipe_for, recipe_named

__all__ = [
    "LOCATION",
    "chosen_initialization",
    "chosen_recipe",
    "default_folder",
    "job_data",
    "moved",
    "overridden",
    "plan_line",
    "recipe_note",
    "refuse_fixed",
    "repeated",
    "resumed",
    "resumed_folder",
    "run_options",
    "with_head",
]

MAY_CHANGE = {"command", "debug", "json", "resume", "out", "config", "dry_run", *(f.name for f in fields(RunOptions))}
"""Options that a resumed run or comparison takes: running and printing."""

LOCATION = ("data", "data_root", "download")
"""Options that locate the data."""


NETWORK = ("task", "head", "head_attention", "attention", "placement", "stages", "model_kwargs", "pretrained",
           "prefix", "ignore", "weights")  # fmt: skip
"""Options that define the network, besides its name."""

DATA_FIELDS = {
    "data": "data", "val_fraction": "val_fraction", "split_seed": "split_seed", "folds": "folds", "fold": "fold",
    "group": "group", "download": "download",
    "data_root": "root", "class_names": "classes", "instances": "instances", "limit": "limit", "white_level": "white",
    "channels": "channels", "bit_depth": "bit_depth", "statistics": "statistics",
}  # fmt: skip
"""Option to its field of `DataOptions`."""


def chosen_initialization(
    options: argparse.Namespace, network: dict[str, Any], *, pretrained: bool
) -> ModelInitialization:
    """Return the network and weights of `--model`, `--checkpoint` and `--pretrained`.

    Args:
        options: As parsed.
        network: Options of the network.
        pretrained: Default of `--pretrained`.

    Raises:
        SenetError: They contradict each other, or have no effect.
    """
    from senet.weights.repository import local_checkpoint

    model, path = options.model, options.checkpoint
    if model is not None:
        shared.refuse_checkpoint(model)
    if path is not None:
        if options.pretrained is not None:
            raise SenetError(f"{'--' if options.pretrained else '--no-'}pretrained: the weights are those of {path}")
        path = str(local_checkpoint(path))
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
    """Return it with the head of `--head` and `--head-attention`. A network with a head keeps it."""
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


def chosen_recipe(options: argparse.Namespace, init: ModelInitialization, *, finetune: bool = False) -> Recipe:
    """Return the recipe of `--recipe`, else the recipe for these images.

    The latter becomes a fine-tuning recipe for trained weights.

    Args:
        options: As parsed.
        init: The initial network.
        finetune: Whether a classifier with trained weights gets the recipe `finetune`.

    Raises:
        SenetError: The recipe is unknown, a value is invalid, or an option would have no effect.
    """
    size = options.size or (init.preprocessing or init.preprocessing_for()).size
    if options.recipe:
        recipe = recipe_named(options.recipe)
    else:
        recipe = recipe_named(recipe_for(options.data, size))
        if init.weights != SCRATCH:
            recipe = finetune_for(recipe) if finetune and _finetunes(options, init) else fine_tuning(recipe)
    return overridden(recipe, options)


def recipe_note(options: argparse.Namespace, init: ModelInitialization) -> str:
    """Name the recipe of `senet train` and the reason for it."""
    if options.recipe:
        return f"recipe {options.recipe}"
    if init.weights != SCRATCH and _finetunes(options, init):
        return f"recipe {FINETUNE}, since the weights are trained (--recipe selects another)"
    name = recipe_for(options.data, options.size or (init.preprocessing or init.preprocessing_for()).size)
    return f"recipe {name}, by data and image size (--recipe selects another)"


def _finetunes(options: argparse.Namespace, init: ModelInitialization) -> bool:
    return init.task in CLASSIFIERS and options.train in (None, "all")


def overridden(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Return a recipe with the given values.

    Another number of epochs stretches the schedule, and another batch size scales the learning rate.
    """
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
    """Return the data options, with `--limit`, `--white-level`, `--channels` and absolute paths.

    Args:
        options: As parsed.
        init: The initial network. On the data of its weights, their split stays the default. Validation images are then
            new to the weights.
    """
    from senet.data.request import storable

    source = replace(
        shared.data_options(options),
        limit=options.limit,
        white=options.white_level,
        **channel_options(options, init),
    ).absolute()
    record = init.trained_on() if init else None
    if record is None or record.split_seed is None or storable(source.data) != record.name:
        return source
    source = replace(
        source,
        split_seed=record.split_seed if options.split_seed is None else options.split_seed,
        group=record.group or None if options.group is None else options.group,
    )
    if options.val_fraction is not None or options.folds is not None:
        return source
    if record.folds:
        return replace(source, folds=record.folds, fold=options.fold or record.fold)
    return replace(source, val_fraction=None if options.fold is not None else record.val_fraction)


def channel_options(options: argparse.Namespace, init: ModelInitialization | None) -> dict[str, Any]:
    """Return the values of `--channels`, `--bit-depth` and `--statistics`, empty where they repeat the weights' own."""
    given = {name: getattr(options, name) for name in ("channels", "bit_depth", "statistics")}
    own = init.preprocessing if init else None
    if own is None or given["statistics"] is not None:
        return given
    same = given["channels"] in (None, own.in_channels) and given["bit_depth"] in (None, own.bit_depth)
    return {} if same else given


def run_options(options: argparse.Namespace) -> RunOptions:
    """Return the running options."""
    return RunOptions(**given_fields(options, RunOptions))


def repeated(options: argparse.Namespace) -> Job:
    """Return the run of the `run.json` in `--config`, changed by the other options.

    The data's digest is empty if these options choose other images.

    Raises:
        SenetError: The file can't be read, or an option would change the network without MODEL.
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
    if given & {"channels", "bit_depth"}:
        data = {"statistics": None} | data
    recipe = recipe_named(options.recipe) if options.recipe else job.recipe
    return Job(
        source=replace(job.source, **data).absolute(),
        network=init,
        recipe=overridden(recipe, options),
        run=replace(job.run, **given_fields(options, RunOptions)),
        digest="" if data else job.digest,
        teacher=chosen_teacher(options, job.teacher),
    )


def resumed(options: argparse.Namespace) -> tuple[Path, Job]:
    """Return the run of `--resume`. Its epochs, the data's path and the running options may change.

    Raises:
        SenetError: There is no run, or a given option can't change.
    """
    folder = resumed_folder(options, "run")
    refuse_fixed(options, {*LOCATION, "epochs"}, "run; leave it out, or start a new run in another --out")
    job = Job.read(folder)
    return folder, replace(
        job,
        source=moved(job.source, options),
        recipe=job.recipe if options.epochs is None else replace(job.recipe, epochs=options.epochs),
        run=replace(job.run, **given_fields(options, RunOptions)),
    )


def moved(source: DataOptions, options: argparse.Namespace) -> DataOptions:
    """Return the same data at the path of the options in `LOCATION`."""
    changes = {"data": options.data, "root": options.data_root, "download": options.download}
    return replace(source, **{name: value for name, value in changes.items() if value is not None}).absolute()


def resumed_folder(options: argparse.Namespace, what: str) -> Path:
    """Return the folder of `--resume DIR`, or of `--resume` with `--out DIR`.

    Args:
        options: As parsed.
        what: `"run"` or `"comparison"`, for messages.

    Raises:
        SenetError: No folder is given, or two are.
    """
    if options.resume and options.out is not None and Path(options.resume).resolve() != options.out.resolve():
        raise SenetError(f"--out {options.out}: the {what} in {options.resume} stays there; leave --out out")
    if not options.resume and options.out is None:
        raise SenetError(f"--resume needs the {what}'s folder: --resume DIR")
    return Path(options.resume or options.out)


def refuse_fixed(options: argparse.Namespace, may_change: Collection[str], otherwise: str) -> None:
    """Refuse given options that a resumed run or comparison can't take.

    Args:
        options: As parsed. An option that was not given is None.
        may_change: Further allowed options, besides `MAY_CHANGE`.
        otherwise: End of the message, with a solution.

    Raises:
        SenetError: Names the first such option.
    """
    taken = MAY_CHANGE.union(may_change)
    fixed = [name for name, value in vars(options).items() if value is not None and name not in taken]
    if fixed:
        raise SenetError(f"--{fixed[0].replace('_', '-')} can't change in a resumed {otherwise}")


def default_folder(model: str, *words: str) -> Path:
    """Return the default folder of a run, named after the network and the last piece of each other word."""
    last = [split_place(word)[0].rstrip("/").replace(":", "/").rsplit("/", 1)[-1] for word in words]
    return Path("runs") / "-".join([model.replace(":", "."), *last])


def _in_words(init: ModelInitialization) -> str:
    return f"{init.model} with {init.head['kind']}" if "kind" in init.head else init.model


def plan_line(verb: str, job: Job, folder: Path) -> str:
    """Summarize a training in one line."""
    recipe, teacher = job.recipe, job.teacher
    taught = f", teacher {teacher.name}" if teacher else ""
    return (
        f"{verb} {_in_words(job.network)} on {job.source.data}: {recipe.epochs} epochs, batch {recipe.batch_size}, "
        f"{recipe.optimizer} lr {recipe.lr:g} ({recipe.schedule}), precision {job.run.precision}, "
        f"seed {recipe.seed}{taught}; into {folder}"
    )
