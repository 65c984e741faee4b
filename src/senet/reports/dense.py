"""The report of an evaluation of a detector or a segmentation network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from senet.data import CorruptImage, DenseSource
from senet.data.images import to_8_bits
from senet.inference import DenseEvaluation, evaluate_dense
from senet.inference.classes import output_names, outputs_of
from senet.inference.dense import class_numbers, task_of
from senet.inference.device import running
from senet.inference.tta import with_flip
from senet.pages import thumbnail
from senet.reports.writing import confusion_cells, new_report, write_confusion, write_document, write_rows
from senet.tasks.drawing import colour
from senet.zoo import LoadedModel

__all__ = ["report_dense"]

EDGE: Final = 480
"""Longer side of a drawn image in pixels."""
WORST: Final = 12


def report_dense(
    folder: str | os.PathLike[str],
    loaded: LoadedModel,
    source: DenseSource,
    classes: Sequence[str],
    *,
    about: Mapping[str, Any],
    batch_size: int = 8,
    precision: str = "32",
    workers: int | None = None,
    tta: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[DenseEvaluation, dict[str, Any]]:
    """Evaluate a detector or a segmentation network and write the report: a page, `report.json` and CSV files.

    Args:
        folder: A new folder, or an earlier report, which is replaced.
        loaded: The network.
        source: The images and their annotations.
        classes: Class names of the labels.
        about: Further entries of the document: `checkpoint`, `model`, `data` and the split.
        batch_size: Images in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses.
        tta: Test-time augmentation, as in `senet.inference.evaluate_dense`.
        progress: Called with the numbers of images done and in all.

    Returns:
        The result, and the numbers of `report.json`.

    Raises:
        SenetError: The folder holds anything else, or a class is unknown to the network.
    """
    names, task = output_names(loaded, classes), task_of(loaded)
    with new_report(Path(folder)) as new:
        result = evaluate_dense(
            loaded, source, classes, batch_size=batch_size, precision=precision, workers=workers, corrupt="skip",
            tta=tta, progress=progress,
        )  # fmt: skip
        titles = {metric.key: metric.title for metric in task.metrics}
        images = [_named(metrics, source) for metrics in result.image_metrics]
        document = dict(about) | {"task": task.name} | result.to_dict() | {"image_metrics": images}
        shown: dict[str, Any] = {"titles": titles, "image_metrics": None, "details": None, "classes": names}
        keys = list(next(iter(result.per_class.values()), {}))
        write_rows(
            new / "classes.csv", ("class", *keys), ([n, *found.values()] for n, found in result.per_class.items())
        )
        write_rows(new / "images.csv", list(images[0]), (list(image.values()) for image in images))
        if "confusion" in result.details:
            confusion = np.array(result.details["confusion"])
            write_confusion(new, confusion, names, counted="pixels")
            shown["colours"] = {
                name: "#{:02x}{:02x}{:02x}".format(*colour(number))
                for number, name in enumerate(names[1:])
                if result.per_class.get(name, {}).get("iou") is not None
            }
            shown["confusion"] = {"classes": names, "cells": confusion_cells(confusion), "counted": "pixels"}
        shown["curves"] = result.details.get("curves", {})
        shown["worst"] = _worst(result, replace(loaded, model=with_flip(loaded, tta)), source, classes, precision)
        write_document(new, document, shown)
    return result, document


def _named(metrics: Mapping[str, Any], source: DenseSource) -> dict[str, Any]:
    return {"path": source.locate(metrics["index"])} | {key: v for key, v in metrics.items() if key != "index"}


def _worst(
    result: DenseEvaluation, loaded: LoadedModel, source: DenseSource, classes: Sequence[str], precision: str
) -> list[dict[str, Any]]:
    """Predict the images with the lowest scores again, and draw truth and prediction."""
    scored = [metrics for metrics in result.image_metrics if metrics["score"] is not None and metrics["score"] < 1]
    task, names, numbers = task_of(loaded), output_names(loaded, classes), class_numbers(outputs_of(loaded, classes))
    transform, found = task.transform(loaded.preprocessing, None), []
    with running(loaded.model, precision) as device:
        for metrics in sorted(scored, key=lambda metrics: metrics["score"] or 0.0)[:WORST]:
            index = int(metrics["index"] or 0)
            try:
                original, target = source[index]
            except CorruptImage:  # it was readable a moment ago
                continue
            image = to_8_bits(original, loaded.preprocessing.white_level)
            [prediction] = task.predictions(
                loaded.model, [transform.alone(image).to(device)], [(image.height, image.width)]
            )
            truth = task.as_prediction({key: numbers[torch.as_tensor(value).long()] if key in ("labels", "mask")
                                        else torch.as_tensor(value) for key, value in target.items()})  # fmt: skip
            found.append(_named(metrics, source) | {
                "truth": thumbnail(task.draw(image, truth, names), EDGE),
                "prediction": thumbnail(task.draw(image, prediction, names), EDGE),
            })  # fmt: skip
    return found
