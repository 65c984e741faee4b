"""Insert attention into a trained network and fine-tune it.

The network is evaluated before surgery, after it and after fine-tuning, and a table compares the results.

The inserted layers start as the identity, so the output is unchanged before training. --plan shows the insertion
points and stops. --epochs 0 inserts attention and trains nothing.

The folder of the run gets the files of `senet train`, and surgery.json. That file lists the insertion points, and the
metrics before surgery, after it and after fine-tuning.

Examples:
  senet retrofit torchvision:resnet50 --data folder:PATH --out runs/flowers-se
  senet retrofit --checkpoint runs/flowers --attention eca --stages 4,5 --data folder:PATH
  senet retrofit --checkpoint best.pth --model timm:resnet50 --data folder:PATH
  senet retrofit timm:resnet50 --plan
  senet retrofit torchvision:fasterrcnn_resnet50_fpn --task detection --data coco:PATH
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import jobs
from senet.cli import options as shared
from senet.cli.dry_run import print_plan
from senet.cli.fields import given_fields
from senet.cli.job_options import add_job_options
from senet.cli.operation import AFTER, measured, operate, planned
from senet.cli.output import print_json, print_table
from senet.cli.parser import add_switch
from senet.console import line_printer, plain_console
from senet.data.augmentation import Augmentation
from senet.errors import CheckpointError, SenetError
from senet.tasks import CLASSIFICATION, task_named
from senet.training.job import Job, is_first_process
from senet.training.model_initialization import SCRATCH, ModelInitialization
from senet.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from senet.data import Data

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet retrofit MODEL --data DATA [--attention SPEC] [--out DIR]
                      [--recipe NAME] [--epochs EPOCHS] [options, see below]
       senet retrofit --checkpoint CHECKPOINT --data DATA [options, see below]
       senet retrofit MODEL --plan [--attention SPEC] [--stages N,N] [--where PATTERN ...]
       senet retrofit --resume DIR"""

RECORDED = {"network", "difference", "split", "description", "results", "why", "report"}
"""Keys of `surgery.json` that a resumed run reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_job_options(parser, pretrained="yes, except for module:function")
    group = parser.add_argument_group("surgery")
    add_switch(group, "--plan", help="show the insertion points and stop, without data")
    group.add_argument(
        "--where",
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="names of modules to insert after, such as 'layer4.*' '**.conv2' (default: the end of each block)",
    )


def run(options: argparse.Namespace) -> int:
    """Insert attention, fine-tune, and evaluate."""
    console = plain_console()
    if options.resume is not None:
        return _resume(options, console)
    init = _initialization(options)
    if options.plan:
        return _show_plan(options, init)
    folder = options.out or jobs.default_folder(init.model, options.attention or "se", options.data or "plain")
    if options.epochs == 0:
        if options.dry_run:
            return _show_plan(options, init)
        return _insert_only(options, init, folder)
    if options.data is None:
        raise SenetError("--data is missing; without it use --epochs 0 (only inserts) or --plan (only shows where)")
    job = Job(
        source=replace(jobs.job_data(options, init), hold_out=True),
        network=init,
        recipe=jobs.chosen_recipe(options, init),
        run=jobs.run_options(options),
    )
    if options.dry_run:
        return _dry_run(options, job, folder)
    job.refuse_used(folder)
    data = job.source.open()
    operation = operate(options, init, data, seed=job.recipe.seed)
    job = replace(job, network=operation.init)
    if is_first_process() and not options.json:
        line_printer(console)(str(operation.report))
        line_printer(console)(jobs.plan_line("fine-tuning", job, folder))
    return _train(job, folder, operation.record(), data, options, console)


def _initialization(options: argparse.Namespace) -> ModelInitialization:
    """Return the network before surgery. The default is published weights, or the weights of a user's function."""
    from senet.zoo import is_code

    return jobs.chosen_initialization(
        options, shared.named_options(options), pretrained=not (options.model and is_code(options.model))
    )


def _refuse_training_options(options: argparse.Namespace, why: str) -> None:
    given = given_fields(options, Recipe) | given_fields(options, Augmentation)
    for name in sorted(given.keys() - {"epochs", "seed"}) + ["recipe"] * bool(options.recipe):
        raise SenetError(f"--{name.replace('_', '-')} has no effect with {why}, which trains nothing")


def _show_plan(options: argparse.Namespace, init: ModelInitialization) -> int:
    _refuse_training_options(options, "--plan")
    data = shared.data_options(options).open() if options.data else None
    preprocessing = init.preprocessing_for(data)
    bare = replace(init, weights=SCRATCH)  # insertion points don't depend on weights, so none are downloaded
    model = bare.build(data.classes if data else init.classes(), preprocessing).model
    report = planned(options, model, init, preprocessing)
    if options.json:
        print_json({"network": init.model} | report.to_dict())
    else:
        print(report)
    return 0


def _dry_run(options: argparse.Namespace, job: Job, folder: Path) -> int:
    """Print the plan of the training, with the attention that surgery would insert."""
    data = job.open_data()
    init, images = job.network, job.network.preprocessing_for(data)
    model = replace(init, weights=SCRATCH).build(data.classes, images).model
    report = planned(options, model, init, images)
    inserted = replace(init, inserted=[point.to_dict() for point in report.inserted])
    print_plan(replace(job, network=inserted), folder, as_json=options.json, data=data)
    return 0


def _insert_only(options: argparse.Namespace, init: ModelInitialization, folder: Path) -> int:
    """Write the network right after surgery."""
    from senet.training.folder import BEST, SURGERY, write_json
    from senet.training.status import holds_results
    from senet.weights import CheckpointMetadata, write_checkpoint

    _refuse_training_options(options, "--epochs 0")
    if holds_results(folder):
        raise SenetError(f"{folder} already contains a run; choose another --out")
    data = shared.data_options(options).open() if options.data else None
    operation = operate(options, init, data, seed=options.seed or 0)
    metrics = operation.results[AFTER] or {}
    write_json(folder, SURGERY, operation.record())
    write_checkpoint(
        folder / BEST,
        operation.model.state_dict(),
        CheckpointMetadata(
            model=init.model,
            options=operation.init.all_options(),
            classes=data.classes if data else init.classes(),
            preprocessing=init.preprocessing_for(data),
            metrics={name: value for name, value in metrics.items() if name != "images" and value is not None},
            training={"retrofitted": init.weights},
            data=init.trained_on(),
            task=operation.init.task,
            thresholds=operation.init.thresholds(data.classes if data else init.classes()),
            head=operation.init.whole_head(),
        ),
    )
    if not options.json:
        print(operation.report)
    _give(folder, operation.record(), options)
    return 0


def _resume(options: argparse.Namespace, console: Console) -> int:
    """Resume, and compare with the metrics from the start of the run."""
    from senet.training.folder import SURGERY

    folder, job = jobs.resumed(options)
    if options.dry_run:
        print_plan(job, folder, as_json=options.json)
        return 0
    try:
        record = json.loads((folder / SURGERY).read_text(encoding="utf-8"))
        if not record.keys() >= RECORDED or not isinstance(record["results"], dict):
            raise ValueError("it is incomplete")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} holds no retrofit to resume: its {SURGERY} can't be read; "
            "`senet train --resume` continues other runs"
        ) from error
    return _train(job, folder, record, job.reopened(folder), options, console)


def _train(
    job: Job, folder: Path, record: dict[str, Any], data: Data, options: argparse.Namespace, console: Console
) -> int:
    """Fine-tune, evaluate the best epoch, and print the comparison."""
    from senet.training.folder import SURGERY
    from senet.training.interruption import Interrupted
    from senet.zoo import is_code, load_model

    try:
        if options.resume is None:
            outcome = job.start(folder, console, notes={SURGERY: record})
        else:
            outcome = job.resume(folder, console, data=data)
    except Interrupted:
        line = f"stopped and saved; continue with: senet retrofit --resume {folder}"
        line_printer(console)(line)
        return 130
    if not is_first_process():
        return 0
    best = load_model(folder, factory=job.network.model if is_code(job.network.model) else None)
    moment = f"fine-tuned, epoch {outcome.best['epoch']:.0f}"
    record["results"][moment] = measured(options, job.network, best.model, data, record["split"])
    _give(folder, record, options, seconds=outcome.seconds)
    if outcome.corrupt_images:
        line_printer(console)(outcome.corrupt_images)
    return 0


def _give(folder: Path, record: dict[str, Any], options: argparse.Namespace, **more: Any) -> None:
    """Print the comparison as a table or as JSON."""
    if options.json:
        print_json({"folder": str(folder)} | record | more)
        return
    rows = []
    scores = task_named(record.get("task", CLASSIFICATION)).metrics
    for moment, result in record["results"].items():
        found = result or {}
        percent = [f"{found[s.key]:.2%}" if found.get(s.key) is not None else "-" for s in scores]
        rows.append([moment, *percent, f"{found['loss']:.4f}" if "loss" in found else "-"])
    report = record["report"]
    if record["split"]:
        print_table((f"{record['split']} images", *(s.title for s in scores), "loss"), rows, title=record["network"])
        print(record["description"])
        if record["why"]:
            print(f"-: {record['why']}")
    print(f"{len(report['inserted'])} insertion points, {report['params']:,} parameters added")
    print(f"output right after surgery: {_change(record['difference'])}\nnetwork: {folder / 'best.safetensors'}")


def _change(difference: float | None) -> str:
    """Describe the change of the output. None (in JSON) and infinity mean outputs of other shapes."""
    if difference is None or math.isinf(difference):
        return "changed: other boxes are found"
    return f"changed by up to {difference:.2g}" if difference else "the same, bit for bit"
