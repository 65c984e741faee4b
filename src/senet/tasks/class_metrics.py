"""Metrics over classes: balanced accuracy and macro F1."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassStatScores

from senet.nn.precision import in_float64
from senet.tasks.task import Metric

__all__ = ["CLASS_METRICS", "ClassScores", "balanced_accuracy", "macro_f1"]

CLASS_METRICS = (Metric("balanced_accuracy", "balanced accuracy"), Metric("macro_f1", "macro F1"))
IGNORED = -1


def balanced_accuracy(sums: np.ndarray) -> np.ndarray:
    """Return the mean recall of the classes with images, as scikit-learn's `balanced_accuracy_score`.

    Args:
        sums: (..., 3, classes) right, true and predicted images of each class, float64.

    Example:
        >>> import numpy as np
        >>> from senet.tasks.class_metrics import balanced_accuracy
        >>> balanced_accuracy(np.array([[2.0, 1, 0], [2, 2, 0], [2, 1, 1]])).item()
        0.75
    """
    right, true, _ = np.moveaxis(sums, -2, 0)
    return _mean_share(right, true)


def macro_f1(sums: np.ndarray) -> np.ndarray:
    """Return the mean F1 of the classes that are present or predicted, as scikit-learn's `f1_score`.

    Args:
        sums: (..., 3, classes) right, true and predicted images of each class, float64.

    Example:
        >>> import numpy as np
        >>> from senet.tasks.class_metrics import macro_f1
        >>> round(macro_f1(np.array([[2.0, 1, 0], [2, 2, 0], [2, 1, 1]])).item(), 3)
        0.556
    """
    right, true, predicted = np.moveaxis(sums, -2, 0)
    return _mean_share(2 * right, true + predicted)


def _mean_share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return the mean of `part / of` over the classes, in the last dimension, where `of` isn't 0."""
    shares = np.divide(part, of, out=np.zeros_like(part), where=of > 0)
    return shares.sum(-1) / np.maximum((of > 0).sum(-1), 1)


class ClassScores(MulticlassStatScores):
    """Balanced accuracy and macro F1 of batches.

    Args:
        num_classes: Number of classes.

    Example:
        >>> import torch
        >>> from senet.tasks.class_metrics import ClassScores
        >>> scores = ClassScores(3)
        >>> scores.add(torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool))
        >>> {name: round(float(value), 3) for name, value in scores.values().items()}
        {'balanced_accuracy': 0.75, 'macro_f1': 0.733}

    Differs: torchmetrics' mean recall counts a class without images as wrong once it is predicted.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average=None, ignore_index=IGNORED, validate_args=False)

    def add(self, logits: Tensor, labels: Tensor, valid: Tensor) -> None:
        """Add a batch, without the stand-ins of corrupt images.

        Args:
            logits: (N, classes).
            labels: (N,) class numbers.
            valid: (N,) bool.
        """
        self.update(logits, labels.where(valid, IGNORED))

    def values(self) -> dict[str, Tensor]:
        """Return the metrics by name."""
        right, wrong, _, _, true = in_float64(self.compute()).unbind(-1)
        sums = torch.stack([right, true, right + wrong]).numpy()
        measures = (("balanced_accuracy", balanced_accuracy), ("macro_f1", macro_f1))
        return {name: torch.tensor(measure(sums), dtype=torch.float32) for name, measure in measures}
