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

from senet.data import BrokenImage, DenseSource, eval_loader, load_image
from senet.data.masks import VOID
from senet.inference.classes import output_names, outputs_of
from senet.inference.device import running
from senet.tasks import task_named
from senet.tasks.dense import DenseTask
from senet.zoo import LoadedModel

__all__ = ["DenseEvaluation", "Seen", "evaluate_dense", "look"]


@dataclass(frozen=True)
class DenseEvaluation:
    """What an evaluation came to.

    Attributes:
        images: How many.
        scores: The task's scores by key, in 0..1.
        per_class: Class to its scores: IoU and Dice of each class, None where it is neither there nor predicted; or mAP
            of each that is there.
        intervals: Score to its 95 % interval over images; a score without one is left out.
        seconds: Wall clock, loading included.
    """

    images: int
    scores: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    intervals: dict[str, tuple[float, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class Seen:
    """One picture and what the network says of it.

    Attributes:
        path: The file.
        image: The picture as it was read; None if it can't be.
        answer: Boxes, or a mask: see `DenseTask.answers`.
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
    dataset = task.evaluated(source, loaded.preprocessing, broken="refuse")
    done = 0
    with running(loaded.model, precision) as device:
        objective.to(device)
        for batch in eval_loader(dataset, batch_size=batch_size, workers=workers):
            targets = [
                {key: (numbers[value.long()] if key in NUMBERED else value).to(device) for key, value in target.items()}
                for target in batch.targets
            ]
            images = [image.to(device) for image in batch.images]
            objective.judge(loaded.model, batch._replace(images=images, targets=targets))
            done += len(images)
            if progress is not None:
                progress(done, len(dataset))
    scores = {key: float(value) for key, value in objective.judged().items()}
    per_class: dict[str, dict[str, float | None]] = {
        name: {key: None if math.isnan(value) else value for key, value in values.items()}
        for name, values in objective.per_class.items()
    }
    return DenseEvaluation(done, scores, per_class, dict(objective.intervals), time.monotonic() - started)


NUMBERED = ("labels", "mask")
"""Targets that are numbers of classes."""


def _numbers(outputs: Tensor) -> Tensor:
    """(256,) or more: the network's number for each of the data's; `VOID` stays what it is."""
    table = torch.arange(max(len(outputs), VOID + 1))
    table[: len(outputs)] = outputs
    if len(outputs) <= VOID:
        table[VOID] = VOID
    return table


def look(
    loaded: LoadedModel,
    paths: Sequence[str],
    *,
    batch_size: int = 8,
    precision: str = "32",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Seen]:
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
            read: list[Seen] = [_read(path, loaded) for path in paths[start : start + batch_size]]
            pictures = [seen.image for seen in read if seen.image is not None]
            images: list[Tensor] = [transform.alone(picture).to(device) for picture in pictures]
            sizes = [(picture.height, picture.width) for picture in pictures]
            answers = iter(task.answers(loaded.model, images, sizes) if images else ())
            for seen in read:
                yield seen if seen.image is None else Seen(seen.path, seen.image, next(answers))
            if progress is not None:
                progress(min(start + batch_size, len(paths)), len(paths))


def _read(path: str, loaded: LoadedModel) -> Seen:
    try:
        return Seen(path, load_image(path, white_level=loaded.preprocessing.white_level))
    except BrokenImage as error:
        return Seen(path, error=error.reason)
