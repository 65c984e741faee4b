"""The predictions of a classifier, written to a CSV file batch by batch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, final

import numpy as np
from torch import Tensor

from senet.data import Source
from senet.spreadsheet import text_cell

__all__ = ["MOST_COLUMNS", "Mistakes", "PredictionWriter"]

MOST_COLUMNS = 100
"""Largest number of classes whose probabilities all are in the file."""
LIKELIEST = 5


@dataclass(frozen=True)
class Mistakes:
    """The wrongly classified images, the most confident one first.

    Attributes:
        indices: (M,) positions in the source.
        true: (M,) true classes.
        predicted: (M,) predicted classes.
        probability: (M,) probabilities of the predicted classes.
        true_probability: (M,) probabilities of the true classes.
    """

    indices: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    true_probability: np.ndarray


@final
class PredictionWriter:
    """Write each batch's predictions, and keep the mistakes, a few numbers each.

    With up to 100 classes a row has all probabilities, else the five likeliest classes.

    Args:
        file: Opened for text, with `newline=""`.
        source: The images.
        classes: Names of the network's outputs.
    """

    def __init__(self, file: IO[str], source: Source, classes: Sequence[str]) -> None:
        self._rows, self._source = csv.writer(file), source
        self._classes = [text_cell(name) for name in classes]
        self._all = len(classes) <= MOST_COLUMNS
        self._mistakes: list[tuple[int, int, int, float, float]] = []
        more = [f"p:{name}" for name in classes] if self._all else _likeliest_columns()
        self._rows.writerow(("path", "truth", "predicted", "right", "probability", "truth_probability", *more))

    def __call__(self, indices: Tensor, labels: Tensor, probabilities: Tensor) -> None:
        """Write one batch, see `senet.inference.evaluation.Observer`."""
        values, numbers = probabilities.topk(min(LIKELIEST, probabilities.shape[1]), 1)
        true_values = probabilities.gather(1, labels[:, None])[:, 0].tolist()
        every = probabilities.tolist() if self._all else [None] * len(labels)
        rows = zip(
            indices.tolist(), labels.tolist(), values.tolist(), numbers.tolist(), true_values, every, strict=True
        )
        for index, true, top_values, top, true_value, row in rows:
            predicted, value = top[0], top_values[0]
            pairs = zip(top[1:], top_values[1:], strict=True)
            more = map(_short, row) if row else (cell for n, v in pairs for cell in (self._classes[n], _short(v)))
            self._rows.writerow((
                text_cell(self._source.locate(index)), self._classes[true], self._classes[predicted],
                int(predicted == true), _short(value), _short(true_value), *more,
            ))  # fmt: skip
            if predicted != true:
                self._mistakes.append((index, true, predicted, value, true_value))

    def mistakes(self) -> Mistakes:
        """Return the mistakes so far."""
        ordered = sorted(self._mistakes, key=lambda row: (-row[3], row[0]))
        columns = [np.array(column) for column in zip(*ordered, strict=True)] or [np.zeros(0, dtype=int)] * 5
        return Mistakes(*columns)


def _likeliest_columns() -> list[str]:
    return [name for rank in range(2, LIKELIEST + 1) for name in (f"class_{rank}", f"probability_{rank}")]


def _short(value: float) -> str:
    return f"{value:.6g}"
