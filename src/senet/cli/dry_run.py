"""Print the resolved recipe, data and network of a training without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli.output import print_json, print_table
from senet.training.job import Job, is_first_process
from senet.training.model_initialization import PRETRAINED, SCRATCH, ModelInitialization
from senet.training.teacher import Teacher

if TYPE_CHECKING:
    from senet.data import Data

__all__ = ["describe_data", "describe_network", "print_plan", "recipe_rows"]

SOURCES = {SCRATCH: "random initialization", PRETRAINED: "published weights"}


def print_plan(job: Job, folder: Path, *, as_json: bool, data: Data | None = None) -> None:
    """Print the recipe, the data and the network of a training.

    Args:
        job: The training.
        folder: The folder of the run.
        as_json: Whether to print JSON in place of tables.
        data: The opened data of `job.source`, or None to open it.
    """
    data = job.open_data(data)
    network, images = describe_network(job, data), describe_data(data)
    if not is_first_process():
        return
    if as_json:
        recipe, run = job.recipe.to_dict(), asdict(job.run)
        taught = {"teacher": job.teacher.to_dict()} if job.teacher else {}
        print_json({"out": str(folder), "network": network, "data": images, "recipe": recipe, "run": run} | taught)
        return
    for title, rows in (
        ("network", network_rows(network)),
        ("data", data_rows(images)),
        ("recipe", recipe_rows(job.recipe.to_dict())),
        *([("teacher", teacher_rows(job.teacher))] if job.teacher else []),
        ("running", [*recipe_rows(asdict(job.run)), ["out", str(folder)]]),
    ):
        print_table((title, ""), rows, left=2)


def describe_network(job: Job, data: Data) -> dict[str, Any]:
    """Describe the network of a training: parameters, multiply-accumulates, input size, source of the weights.
    JSON-ready.

    The network is built with random weights, so nothing is downloaded.
    """
    from torch import Tensor

    from senet.profiling import cost
    from senet.tasks import task_named
    from senet.training.freezing import trained_part
    from senet.training.layers import find_layers

    init = job.network
    built = replace(job, network=replace(init, weights=SCRATCH)).build(data)
    images = built.preprocessing
    size = (images.in_channels, *images.size)
    example = task_named(built.task).example(images)
    counted = cost(built.model, size, example_inputs=None if isinstance(example[0], Tensor) else example)
    return {
        "model": init.model,
        "task": built.task,
        "head": init.head.get("kind"),
        "options": built.options,
        "params": counted.params,
        "macs": counted.macs,
        "training": trained_part(built.model, find_layers(built.model, example), job.recipe),
        "input_size": list(size),
        "weights": _weights(init),
    }


def _weights(init: ModelInitialization) -> str:
    """Describe the source of the weights: a name or the path of a file."""
    from senet.zoo import is_code

    if init.weights == SCRATCH and is_code(init.model):
        return "as your function builds it"
    return SOURCES.get(init.weights, init.weights)


def describe_data(data: Data) -> dict[str, Any]:
    """Describe the data of a training, JSON-ready."""
    images = {name: len(split) for name, split in data.splits.items()}
    return {"data": data.absolute_name, "task": data.task, "images": images, "classes": list(data.classes)}


def network_rows(network: Mapping[str, Any]) -> list[list[str]]:
    """Return the table rows of `describe_network`."""
    channels, height, width = network["input_size"]
    head = f" with {network['head']}" if network["head"] else ""
    return [
        ["model", f"{network['model']}{head}"],
        ["task", network["task"]],
        ["parameters", f"{network['params']:,}"],
        ["MACs", f"{network['macs']:,}"],
        *([["training", network["training"]]] if "training" in network else []),
        ["input", f"{channels} x {height} x {width}"],
        ["weights", network["weights"]],
    ]


def data_rows(data: Mapping[str, Any]) -> list[list[str]]:
    """Return the table rows of `describe_data`."""
    names = data["classes"]
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    counts = [[f"{name} images", f"{count:,}"] for name, count in data["images"].items()]
    return [["data", data["data"]], *counts, ["classes", f"{len(names):,}: {shown}"]]


def teacher_rows(teacher: Teacher) -> list[list[str]]:
    """Return the table rows of a teacher."""
    return [["model", teacher.name], ["alpha", f"{teacher.alpha:g}"], ["temperature", f"{teacher.temperature:g}"]]


def recipe_rows(values: Mapping[str, Any]) -> list[list[str]]:
    """Return table rows of options, including nested tables. Empty options are left out."""
    rows: list[list[str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += recipe_rows(value)
        elif value not in ("", [], ()):
            rows.append([name.replace("_", "-"), _shown(value)])
    return rows


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
