"""Evaluate and use networks whose answers lie in the picture: boxes and masks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from senet.data import CorruptImage, DenseSource, eval_loader, load_image
from senet.data.masks import IGNORE_INDEX
from senet.inference.classes import output_names, outputs_of
from senet.inference.device import running
from senet.tasks import task_named
from senet.tasks.dense import DenseTask
from senet.zoo import LoadedModel

__all__ = ["DenseEvaluation", "DensePrediction", "evaluate_dense", "predict_dense"]


@dataclass(frozen=True)
class DenseEvaluation:
    """What an evaluation came to.

    Attributes:
        images: How many.
        metrics: The task's scores by key, in 0..1.
        per_class: Class to its scores: IoU and Dice of each class, None where it is neither there nor predicted; or mAP
            of each that is there.
        intervals: Score to its 95 % interval over images; a score without one is left out.
        seconds: Wall clock, loading included.
    """

    images: int
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    intervals: dict[str, tuple[float, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class DensePrediction:
    """One picture and what the network says of it.

    Attributes:
        path: The file.
        image: The picture as it was read; None if it can't be.
        answer: Boxes, or a mask: see `DenseTask.predictions`.
        error: Why it can't be read; empty if it can.
    """

    path: str
    image: Image.Image | None = None
    answer: Any = None
    error: str = ""


def task_of(loaded: LoadedModel) -> DenseTask:
    """The task of a network that isn't a classifier."""
    task = task_named(loaded.description.task)
    assert isinstance(task, DenseTask)
    return task


def evaluate_dense(
    loaded: LoadedModel,
    source: DenseSource,
    classes: Sequence[str],
    *,
    batch_size: int = 8,
    precision: str = "32",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DenseEvaluation:
    """Run a network over every picture once, and measure at the picture's own size.

    Args:
        loaded: The network.
        source: The pictures and what is known of them.
        classes: What the labels mean; see `outputs_of`.
        batch_size: Pictures at a time.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode; None chooses.
        progress: Called with the pictures done and in all.

    Raises:
        DataError: A class that the network doesn't know, or a picture that can't be read.
    """
    started = time.monotonic()
    numbers = _numbers(outputs_of(loaded, classes))
    task = task_of(loaded)
    objective = task.objective(output_names(loaded, classes), alone=True)
    dataset = task.evaluated(source, loaded.preprocessing, corrupt="raise")
    done = 0
    with running(loaded.model, precision) as device:
        objective.to(device)
        for batch in eval_loader(dataset, batch_size=batch_size, workers=workers):
            targets = [
                {key: (numbers[value.long()] if key in NUMBERED else value).to(device) for key, value in target.items()}
                for target in batch.targets
            ]
            images = [image.to(device) for image in batch.images]
            objective.validation_step(loaded.model, batch._replace(images=images, targets=targets))
            done += len(images)
            if progress is not None:
                progress(done, len(dataset))
    metrics = {key: float(value) for key, value in objective.val_metrics().items()}
    per_class: dict[str, dict[str, float | None]] = {
        name: {key: None if math.isnan(value) else value for key, value in values.items()}
        for name, values in objective.per_class.items()
    }
    return DenseEvaluation(done, metrics, per_class, dict(objective.intervals), time.monotonic() - started)


NUMBERED = ("labels", "mask")
"""Targets that are numbers of classes."""


def _numbers(outputs: Tensor) -> Tensor:
    """(256,) or more: the network's number for each of the data's; `IGNORE_INDEX` stays what it is."""
    table = torch.arange(max(len(outputs), IGNORE_INDEX + 1))
    table[: len(outputs)] = outputs
    if len(outputs) <= IGNORE_INDEX:
        table[IGNORE_INDEX] = IGNORE_INDEX
    return table


def predict_dense(
    loaded: LoadedModel,
    paths: Sequence[str],
    *,
    batch_size: int = 8,
    precision: str = "32",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[DensePrediction]:
    """Look at files, in their order; one that can't be read is told in its place.

    Args:
        loaded: The network.
        paths: Image files.
        batch_size: Files at a time.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        progress: Called with the files done and in all.
    """
    task = task_of(loaded)
    transform = task.transform(loaded.preprocessing, None)
    with running(loaded.model, precision) as device:
        for start in range(0, len(paths), batch_size):
            read: list[DensePrediction] = [_read(path, loaded) for path in paths[start : start + batch_size]]
            pictures = [seen.image for seen in read if seen.image is not None]
            images: list[Tensor] = [transform.alone(picture).to(device) for picture in pictures]
            sizes = [(picture.height, picture.width) for picture in pictures]
            predictions = iter(task.predictions(loaded.model, images, sizes) if images else ())
            for seen in read:
                yield seen if seen.image is None else DensePrediction(seen.path, seen.image, next(predictions))
            if progress is not None:
                progress(min(start + batch_size, len(paths)), len(paths))


def _read(path: str, loaded: LoadedModel) -> DensePrediction:
    try:
        return DensePrediction(path, load_image(path, white_level=loaded.preprocessing.white_level))
    except CorruptImage as error:
        return DensePrediction(path, error=error.reason)
