"""The report of a classifier's evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from senet.data import CorruptImage, Source
from senet.data.inputs import preview
from senet.inference import Evaluation, evaluate
from senet.inference.classes import output_names
from senet.pages import thumbnail
from senet.preprocessing import Preprocessing
from senet.reports.predictions import Mistakes, PredictionWriter
from senet.reports.writing import confusion_cells, new_report, write_confusion, write_document, write_rows
from senet.zoo import LoadedModel

__all__ = ["report_classification"]

EDGE: Final = 112
"""Longer side of a thumbnail in pixels."""
MISTAKES: Final = 24
CONFUSIONS: Final = 12
EXAMPLES: Final = 4
"""Thumbnails of a confusion."""


def report_classification(
    folder: str | os.PathLike[str],
    loaded: LoadedModel,
    source: Source,
    classes: Sequence[str],
    *,
    about: Mapping[str, Any],
    batch_size: int = 128,
    precision: str = "32",
    workers: int | None = None,
    tta: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate a classifier and write the report: a page, `report.json`, three CSV files and a picture.

    Args:
        folder: A new folder, or an earlier report, which is replaced.
        loaded: The network.
        source: The images.
        classes: Class names of the labels.
        about: Further entries of the document: `checkpoint`, `model`, `data` and the split.
        batch_size: Images in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses.
        tta: Test-time augmentation, as in `senet.inference.evaluate`.
        progress: Called with the numbers of images done and in all.

    Returns:
        The result, and the numbers of `report.json`.

    Raises:
        SenetError: The folder holds anything else, or a class is unknown to the network.

    Example:
        >>> import tempfile
        >>> import senet
        >>> from senet.data import open_data, subsample
        >>> from senet.reports import report_classification
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> data = open_data("digits")
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=data.classes, preprocessing=data.default_preprocessing)
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=10, in_channels=1).eval()
        >>> loaded = LoadedModel(network, data.classes, data.default_preprocessing, metadata)  # or load_model(PATH)
        >>> images, folder = subsample(data.val, 20), tempfile.mkdtemp() + "/report"
        >>> about = {"checkpoint": "runs/digits", "model": "se_cifar_resnet20", "data": "digits"}
        >>> result, document = report_classification(
        ...     folder, loaded, images, data.classes, about=about, workers=0)
        >>> document["top1"] == result.top1
        True
    """
    names = output_names(loaded, classes)
    with new_report(Path(folder)) as new:
        with (new / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
            writer = PredictionWriter(file, source, names)
            result = evaluate(
                loaded, source, classes, batch_size=batch_size, precision=precision, workers=workers, corrupt="skip",
                tta=tta, observe=writer, progress=progress,
            )  # fmt: skip
        mistakes, confusion = writer.mistakes(), np.array(result.confusion)
        document = {"task": "classification"} | dict(about) | result.to_dict() | {
            "top_confusions": _confusions(confusion, names),
            "confident_mistakes": [_mistake(mistakes, n, source, names) for n in range(len(mistakes.true))[:MISTAKES]],
        }  # fmt: skip
        write_rows(new / "classes.csv", CLASS_COLUMNS, map(_class_row, result.classes.items()))
        write_confusion(new, confusion, names, counted="images")
        write_document(new, document, _shown(document, confusion, mistakes, source, names, loaded.preprocessing))
    return result, document


CLASS_COLUMNS: Final = (
    "class", "images", "predicted", "right", "precision", "precision_low", "precision_high", "recall", "recall_low",
    "recall_high", "f1",
)  # fmt: skip


def _class_row(item: tuple[str, Any]) -> list[Any]:
    name, c = item
    low_high = [interval or (None, None) for interval in (c.precision_interval, c.recall_interval)]
    return [name, c.images, c.predicted, c.right, c.precision, *low_high[0], c.recall, *low_high[1], c.f1]


def _confusions(confusion: np.ndarray, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the commonest pairs of a true and a predicted class."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    true, predicted = np.nonzero(wrong)
    order = np.argsort(-wrong[true, predicted], kind="stable")[:CONFUSIONS]
    sums = confusion.sum(1)
    return [
        {"truth": names[t], "predicted": names[p], "images": int(wrong[t, p]), "share": float(wrong[t, p] / sums[t])}
        for t, p in zip(true[order], predicted[order], strict=True)
    ]


def _mistake(mistakes: Mistakes, n: int, source: Source, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "path": source.locate(int(mistakes.indices[n])),
        "truth": names[int(mistakes.true[n])],
        "predicted": names[int(mistakes.predicted[n])],
        "probability": float(mistakes.probability[n]),
        "truth_probability": float(mistakes.true_probability[n]),
    }


def _shown(
    document: Mapping[str, Any],
    confusion: np.ndarray,
    mistakes: Mistakes,
    source: Source,
    names: tuple[str, ...],
    preprocessing: Preprocessing,
) -> dict[str, Any]:
    """Return the page's parts that differ from the document."""

    @cache
    def small(index: int) -> str | None:
        try:
            return thumbnail(preview(source, index, preprocessing), EDGE)
        except CorruptImage:  # it was readable a moment ago
            return None

    numbers = {name: number for number, name in enumerate(names)}
    confusions = []
    for pair in document["top_confusions"]:
        of_pair = (mistakes.true == numbers[pair["truth"]]) & (mistakes.predicted == numbers[pair["predicted"]])
        examples = [_mistake(mistakes, n, source, names) | {"image": small(int(mistakes.indices[n]))}
                    for n in np.nonzero(of_pair)[0][:EXAMPLES].tolist()]  # fmt: skip
        confusions.append(pair | {"examples": examples})
    shown = [m | {"image": small(int(mistakes.indices[n]))} for n, m in enumerate(document["confident_mistakes"])]
    return {
        "per_class": None,
        "confusion": {"classes": names, "cells": confusion_cells(confusion), "counted": "images"},
        "top_confusions": confusions,
        "confident_mistakes": shown,
    }
