"""Metrics of a classifier from its confusion matrix and its confidences, with 95 % intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from senet.tasks.class_metrics import balanced_accuracy, macro_f1
from senet.tasks.intervals import Interval, bootstrap_confusion, jackknife, wilson

__all__ = ["Bin", "Calibration", "ClassMetrics", "calibration", "class_metrics", "overall_metrics"]

BINS = 15


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class, in 0..1.

    Attributes:
        images: Number of images of the class.
        predicted: Number of images that were predicted as this class.
        right: Number of images of the class that were predicted as this class.
        precision: `right / predicted`, None if the class is never predicted.
        recall: `right / images`, None without images.
        f1: Harmonic mean of precision and recall, None if the class is neither present nor predicted.
        precision_interval: 95 % interval of the precision over images.
        recall_interval: 95 % interval of the recall over images.

    Example:
        >>> from senet.inference import ClassMetrics
        >>> ship = ClassMetrics(images=4, predicted=2, right=1, precision=0.5, recall=0.25, f1=1 / 3)
        >>> ship.f1 == 2 * ship.right / (ship.images + ship.predicted)
        True
    """

    images: int
    predicted: int
    right: int
    precision: float | None
    recall: float | None
    f1: float | None
    precision_interval: Interval | None = None
    recall_interval: Interval | None = None


@dataclass(frozen=True)
class Bin:
    """Images whose predictions have about the same probability.

    Attributes:
        low: Smallest probability of the bin, included.
        high: Largest probability of the bin, excluded except for 1.
        images: Number of images.
        confidence: Mean probability of the predicted classes, None without images.
        accuracy: Fraction of right predictions, None without images.
        interval: 95 % interval of the accuracy over images.
    """

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Calibration:
    """Agreement of predicted probabilities with observed accuracies.

    Attributes:
        ece: Expected calibration error: the mean distance of confidence and accuracy over the bins, by images.
        interval: 95 % interval of the error over images.
        bins: The bins of the reliability diagram, of equal width.
    """

    ece: float
    interval: Interval | None
    bins: tuple[Bin, ...]


def class_metrics(confusion: np.ndarray) -> list[ClassMetrics]:
    """Return the metrics of each class.

    Args:
        confusion: (true class, predicted class) counts of images.
    """
    right, true, predicted = (sums.tolist() for sums in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    return [
        ClassMetrics(
            images=n,
            predicted=p,
            right=r,
            precision=r / p if p else None,
            recall=r / n if n else None,
            f1=2 * r / (n + p) if n + p else None,
            precision_interval=wilson(r, p) if p else None,
            recall_interval=wilson(r, n) if n else None,
        )
        for r, n, p in zip(right, true, predicted, strict=True)
    ]


def overall_metrics(confusion: np.ndarray) -> tuple[dict[str, float], dict[str, Interval]]:
    """Return balanced accuracy and macro F1, and their intervals: see `senet.tasks.class_metrics`."""
    sums = np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)])[None].astype(np.float64)
    measures = {"balanced_accuracy": balanced_accuracy, "macro_f1": macro_f1}
    found = {name: float(measure(sums)[0]) for name, measure in measures.items()}
    return found, bootstrap_confusion(confusion, measures)


def calibration(confidences: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray) -> Calibration:
    """Return the expected calibration error and the reliability diagram.

    Args:
        confidences: (N,) probability of each predicted class, or (N, classes) probabilities of all labels.
        right: Whether it is the true class, or whether the image has the label, of the same shape.

    Source: Guo et al. 2017, "On calibration of modern neural networks", with 15 bins.
    """
    confidence, correct = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    edges = np.linspace(0, 1, BINS + 1)
    number = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)

    def error(chosen: np.ndarray) -> float:
        gaps = (correct[chosen] - confidence[chosen]).ravel()
        return float(np.abs(np.bincount(number[chosen].ravel(), gaps, minlength=BINS)).sum() / len(gaps))

    images = np.bincount(number.ravel(), minlength=BINS)
    sums = [np.bincount(number.ravel(), values.ravel(), minlength=BINS) for values in (confidence, correct)]
    bins = [
        Bin(
            low=float(edges[i]),
            high=float(edges[i + 1]),
            images=int(n),
            confidence=float(sums[0][i] / n) if n else None,
            accuracy=float(sums[1][i] / n) if n else None,
            interval=wilson(round(sums[1][i]), int(n)) if n else None,
        )
        for i, n in enumerate(images)
    ]
    return Calibration(error(np.arange(len(confidence))), jackknife(len(confidence), error), tuple(bins))
