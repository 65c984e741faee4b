"""Metrics over labels: average precision, F1, and the threshold of each label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric as TorchMetric
from torchmetrics.functional.classification import binary_precision_recall_curve
from torchmetrics.utilities.data import dim_zero_cat

from senet.tasks.class_metrics import macro_f1
from senet.tasks.task import Metric

__all__ = [
    "DEFAULT_THRESHOLD",
    "LABEL_METRICS",
    "LabelScores",
    "average_precisions",
    "best_thresholds",
    "label_sums",
    "mean_average_precision",
    "micro_f1",
    "precision_curve",
]

LABEL_METRICS = (Metric("map", "mAP"), Metric("micro_f1", "micro F1"), Metric("macro_f1", "macro F1"))

DEFAULT_THRESHOLD = 0.5
"""Threshold of a label without a positive image to choose one on."""

IGNORED = -1


def average_precisions(probabilities: Tensor, targets: Tensor) -> np.ndarray:
    """Return the average precision of each label, NaN for a label without a positive image.

    Args:
        probabilities: (N, classes).
        targets: (N, classes) bool.

    Returns:
        (classes,) float64, as scikit-learn's `average_precision_score`.

    Example:
        >>> import torch
        >>> from senet.tasks.label_metrics import average_precisions
        >>> probabilities = torch.tensor([[0.9, 0.2], [0.6, 0.4], [0.3, 0.1]])
        >>> average_precisions(probabilities, torch.tensor([[True, False], [False, False], [True, False]])).round(3)
        array([0.833,   nan])
    """
    return np.array([_average_precision(*pair) for pair in zip(probabilities.T, targets.T, strict=True)])


def _average_precision(probabilities: Tensor, targets: Tensor) -> float:
    if not targets.any():
        return float("nan")
    precision, recall, _ = _curve(probabilities, targets)
    return float(-np.sum(np.diff(recall) * precision[:-1]))


def _curve(probabilities: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, falling recall and rising thresholds. The first two end with a point without a threshold."""
    found = binary_precision_recall_curve(probabilities, targets.long(), validate_args=False)
    precision, recall, thresholds = (values.numpy().astype(np.float64) for values in found)
    return precision, recall, thresholds


def mean_average_precision(probabilities: Tensor, targets: Tensor) -> float:
    """Return the mean of `average_precisions` over the labels with a positive image, NaN without one."""
    found = average_precisions(probabilities, targets)
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def best_thresholds(probabilities: Tensor, targets: Tensor) -> tuple[float, ...]:
    """Return the threshold of each label with the highest F1: an image has the label from this probability on.

    It lies midway between two of the probabilities, so that rounding changes no prediction. Of equals it is the lowest.

    Args:
        probabilities: (N, classes).
        targets: (N, classes) bool.

    Returns:
        One number in 0..1 for each label, 0.5 for a label without a positive image.

    Example:
        >>> import torch
        >>> from senet.tasks.label_metrics import best_thresholds
        >>> probabilities = torch.tensor([[0.75, 0.2], [0.25, 0.4], [0.125, 0.1]])
        >>> best_thresholds(probabilities, torch.tensor([[True, False], [True, False], [False, False]]))
        (0.1875, 0.5)
    """
    return tuple(map(_best_threshold, probabilities.T, targets.T))


def _best_threshold(probabilities: Tensor, targets: Tensor) -> float:
    if not targets.any():
        return DEFAULT_THRESHOLD
    precision, recall, values = _curve(probabilities, targets)
    best = int(np.argmax((2 * precision * recall / np.maximum(precision + recall, 1e-30))[:-1]))
    return float(values[best] + (values[best - 1] if best else 0.0)) / 2


def precision_curve(probabilities: Tensor, targets: Tensor) -> list[float]:
    """Return the largest precision of a label at a recall of at least 0, 0.01, ..., 1.

    Args:
        probabilities: (N,).
        targets: (N,) bool, at least one of them True.
    """
    precision, recall, _ = (values[:-1] for values in _curve(probabilities, targets))
    largest = np.maximum.accumulate(precision)
    missing = np.searchsorted(recall[::-1], np.linspace(0, 1, 101) - 1e-6)
    return [round(float(value), 4) for value in largest[len(largest) - missing - 1]]


def label_sums(probabilities: Tensor, targets: Tensor, thresholds: tuple[float, ...]) -> np.ndarray:
    """Return (N, 3, classes) right, true and predicted labels of each image, 0 or 1 in float64."""
    targets = targets.cpu()
    predicted = probabilities.cpu().double() >= torch.tensor(thresholds, dtype=torch.float64)
    return torch.stack([predicted & targets, targets, predicted], 1).double().numpy()


def micro_f1(sums: np.ndarray) -> np.ndarray:
    """Return the F1 over all pairs of an image and a label, 0 without any label.

    Args:
        sums: (..., 3, classes) right, true and predicted images of each label.

    Example:
        >>> import numpy as np
        >>> from senet.tasks.label_metrics import micro_f1
        >>> micro_f1(np.array([[2.0, 1], [2, 2], [3, 1]])).item()
        0.75
    """
    right, true, predicted = np.moveaxis(sums.sum(-1), -1, 0)
    return 2 * right / np.maximum(true + predicted, 1)


class LabelScores(TorchMetric):
    """All probabilities and targets of an epoch, over all processes.

    Example:
        >>> import torch
        >>> from senet.tasks.label_metrics import LabelScores
        >>> scores = LabelScores()
        >>> scores.add(torch.tensor([[2.0, -2.0], [0.0, 1.0]]), torch.eye(2), torch.tensor([True, True]))
        >>> values, thresholds = scores.values()
        >>> {name: float(value) for name, value in values.items()}, len(thresholds)
        ({'map': 1.0, 'micro_f1': 1.0, 'macro_f1': 1.0}, 2)
    """

    full_state_update = False
    probabilities: list[Tensor]
    targets: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def add(self, logits: Tensor, targets: Tensor, valid: Tensor) -> None:
        """Add a batch, without the stand-ins of corrupt images.

        Args:
            logits: (N, classes).
            targets: (N, classes) of 0 and 1.
            valid: (N,) bool.
        """
        self.update(logits.detach().sigmoid(), targets.where(valid[:, None], IGNORED).to(torch.int8))

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add probabilities and targets, both (N, classes). Targets of -1 are left out."""
        self.probabilities.append(probabilities)
        self.targets.append(targets)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return the probabilities and the targets (bool), both (N, classes), on the CPU."""
        probabilities, targets = dim_zero_cat(self.probabilities).cpu(), dim_zero_cat(self.targets).cpu()
        valid = (targets != IGNORED).all(1)
        return probabilities[valid], targets[valid].bool()

    def values(self) -> tuple[dict[str, Tensor], tuple[float, ...]]:
        """Return the metrics by name, and the best threshold of each label, at which F1 is computed."""
        probabilities, targets = self.compute()
        thresholds = best_thresholds(probabilities, targets)
        sums = label_sums(probabilities, targets, thresholds).sum(0)
        found = {
            "map": mean_average_precision(probabilities, targets),
            "micro_f1": float(micro_f1(sums)),
            "macro_f1": float(macro_f1(sums)),
        }
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in found.items()}, thresholds
