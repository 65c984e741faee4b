"""Metrics over classes: balanced accuracy and macro F1."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassStatScores

from senet.nn.precision import in_float64
from senet.tasks.task import Metric

__all__ = ["CLASS_METRICS", "ClassScores"]

CLASS_METRICS = (Metric("balanced_accuracy", "balanced accuracy"), Metric("macro_f1", "macro F1"))
IGNORED = -1


class ClassScores(MulticlassStatScores):
    """Balanced accuracy (mean recall) and macro F1 over the classes that occur among the images.

    Args:
        num_classes: Number of classes.

    Example:
        >>> import torch
        >>> from senet.tasks.class_metrics import ClassScores
        >>> scores = ClassScores(3)
        >>> scores.add(torch.eye(3)[[0, 0, 0, 1]], torch.tensor([0, 0, 1, 1]), torch.ones(4, dtype=torch.bool))
        >>> {name: round(float(value), 3) for name, value in scores.values().items()}
        {'balanced_accuracy': 0.75, 'macro_f1': 0.733}

    Differs: torchmetrics' macro average counts a class without images as wrong once it is predicted.
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
        right, wrong, _, _, images = in_float64(self.compute()).unbind(-1)
        present = images > 0
        recall, f1 = right / images, 2 * right / (right + wrong + images)
        return {
            name: torch.where(present, each, 0).sum().div(present.sum()).float()
            for name, each in (("balanced_accuracy", recall), ("macro_f1", f1))
        }
