"""Surgery with the network's metrics before and after it."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from senet.cli import options as shared
from senet.cli.output import counting
from senet.errors import SenetError
from senet.tasks import task_named
from senet.training.job import is_first_process
from senet.training.model_initialization import ModelInitialization

if TYPE_CHECKING:
    import torch
    from torch import nn

    from senet.data import Data
    from senet.preprocessing import Preprocessing
    from senet.surgery import Report

__all__ = ["AFTER", "BEFORE", "Operation", "measured", "operate", "planned"]

BEFORE, AFTER = "before surgery", "right after surgery"
"""Names of the evaluations."""


def planned(options: argparse.Namespace, model: nn.Module, init: ModelInitialization, images: Preprocessing) -> Report:
    """Plan the insertion points of `--attention`, `--where`, `--placement` and `--stages`."""
    from senet.nn import SE, attention_from_dict
    from senet.training.model_initialization import surgery_plan

    wanted = shared.network_options(options)
    attention = wanted.pop("attention", SE().to_dict())
    if attention is None:
        raise SenetError("--attention none inserts nothing")
    return surgery_plan(
        init, model, images, attention=attention_from_dict(attention), where=options.where or "auto", **wanted
    )


@dataclass(frozen=True)
class Operation:
    """Result of surgery.

    Attributes:
        init: The network with the inserted attention.
        model: The built network.
        report: Report of the insertion points.
        difference: Largest change of an output on random images. 0 means the same bits.
        results: Name of an evaluation to loss and metrics. None if the classifier doesn't know the data's classes.
        why: Reason for None.
        split: The evaluated split of the data. Empty without data.
        description: The evaluated images, in words.
    """

    init: ModelInitialization
    model: nn.Module
    report: Report
    difference: float
    results: dict[str, dict[str, Any] | None]
    why: str
    split: str
    description: str

    def record(self) -> dict[str, Any]:
        """Return the content of `surgery.json`."""
        return {
            "network": self.init.model,
            "weights": self.init.weights,
            "difference": self.difference,
            "split": self.split,
            "description": self.description,
            "results": self.results,
            "task": self.init.task,
            "why": self.why,
            "report": self.report.to_dict(),
        }


def operate(options: argparse.Namespace, init: ModelInitialization, data: Data | None, *, seed: int) -> Operation:
    """Build a network, evaluate it, insert attention, and evaluate it again."""
    import torch

    from senet.inference.device import running
    from senet.surgery import apply_insertion_points

    init = init if data is None else init.for_data(data)
    preprocessing = init.preprocessing_for(data)
    torch.manual_seed(seed)
    classes = data.classes if data else init.classes()
    initialized = init.build(classes, preprocessing)
    task = task_named(init.task)
    if data is not None and data.task != init.task:
        raise SenetError(f"{data.name} is for --task {data.task}, not for {init.task}")
    task.check_network(initialized.model, init.model, preprocessing, classes)
    model, known = initialized.model, data is not None and not initialized.new_head
    split = ("test" if data.test is not None else "val") if data else ""
    report = planned(options, model, init, preprocessing)
    example = torch.randn(2, preprocessing.in_channels, *preprocessing.size)
    results: dict[str, dict[str, Any] | None] = {BEFORE: None, AFTER: None}

    def outputs_at(moment: str) -> list[torch.Tensor]:
        if known and data is not None and is_first_process():
            results[moment] = measured(options, init, model, data, split)
        with running(model, "32") as device:
            return [output.cpu() for output in task.outputs(model, example.to(device))]

    before = outputs_at(BEFORE)
    apply_insertion_points(model, report.inserted)
    difference = _difference(before, outputs_at(AFTER))
    inserted = replace(init, inserted=[site.to_dict() for site in report.inserted])
    return Operation(inserted, model, report, difference, results, initialized.new_head, split, _words(data))


def _words(data: Data | None) -> str:
    """Describe the evaluated images, and whether they choose the best epoch."""
    if data is None:
        return ""
    count = len(data.val if data.test is None else data.test)
    if data.test is None:
        return f"{count:,} images: the validation split"
    if data.held_out:
        return f"{count:,} of {count + len(data.val):,} validation images, held out: they don't choose the best epoch"
    return f"{count:,} images: the test split, which doesn't choose the best epoch"


def _difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Return the largest change of an output. Infinite if the shapes differ, as for a detector with other boxes."""
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return math.inf
    return max(((b - a).abs().max().item() for b, a in zip(before, after, strict=True) if a.numel()), default=0.0)


def measured(
    options: argparse.Namespace, init: ModelInitialization, model: nn.Module, data: Data, split: str
) -> dict[str, Any]:
    """Return loss and metrics of a network for the data's classes."""
    from senet.inference import DenseEvaluation
    from senet.inference.task_evaluation import evaluate_task
    from senet.weights import CheckpointMetadata
    from senet.zoo import LoadedModel

    preprocessing = init.preprocessing_for(data)
    description = CheckpointMetadata(
        model=init.model,
        classes=data.classes,
        preprocessing=preprocessing,
        task=init.task,
        thresholds=init.thresholds(data.classes),
    )
    loaded = LoadedModel(model, data.classes, preprocessing, description)
    with counting("evaluating") as progress:
        workers = options.workers if options.workers is not None and options.workers >= 0 else None
        found = evaluate_task(loaded, data.split(split), data.classes, workers=workers, progress=progress)
    if isinstance(found, DenseEvaluation):
        return {"images": found.images, **found.metrics}
    keys = [metric.key for metric in task_named(init.task).metrics]
    return {"images": found.images, **{key: getattr(found, key) for key in keys}, "loss": found.loss}
