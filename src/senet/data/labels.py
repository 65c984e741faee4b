"""Labels of images: one class each, or any number of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MULTI_LABEL", "as_labels", "class_totals", "label_text", "target_of"]

MULTI_LABEL = "multi-label"
"""`Data.task` of images that may have any number of classes, also none."""


def as_labels(labels: object) -> np.ndarray:
    """Return labels as an array: (N,) int64 class numbers, or (N, classes) uint8 of 0 and 1 for multi-label images.

    Raises:
        ValueError: More than two dimensions, or a multi-label value other than 0 and 1.

    Example:
        >>> from senet.data.labels import as_labels
        >>> as_labels([0, 2]).dtype, as_labels([[0, 1, 1], [0, 0, 0]]).dtype
        (dtype('int64'), dtype('uint8'))
    """
    found = np.asarray(labels)
    if found.ndim == 2:
        if not np.isin(found, (0, 1)).all():
            raise ValueError("labels of shape (N, classes) must be 0 or 1")
        return found.astype(np.uint8, copy=False)
    if found.ndim > 2:
        raise ValueError(f"labels of shape {found.shape}; use (N,) class numbers, or (N, classes) of 0 and 1")
    return found.astype(np.int64, copy=False)


def target_of(labels: np.ndarray, index: int) -> int | Tensor:
    """Return the training target of one image: its class number, or (classes,) float32 of 0 and 1.

    Example:
        >>> import numpy as np
        >>> from senet.data.labels import target_of
        >>> target_of(np.array([4, 2]), 1), target_of(np.array([[0, 1, 1]], dtype=np.uint8), 0)
        (2, tensor([0., 1., 1.]))
    """
    if labels.ndim == 1:
        return int(labels[index])
    import torch

    return torch.from_numpy(labels[index].astype(np.float32))


def label_text(labels: np.ndarray, index: int) -> str:
    """Return the classes of one image as text: `"4"`, or `"1 2"` and `""` for multi-label images."""
    return str(labels[index]) if labels.ndim == 1 else " ".join(map(str, np.flatnonzero(labels[index])))


def class_totals(labels: np.ndarray, classes: int) -> np.ndarray:
    """Count the images of each class, (classes,) int64. Unlabelled images (number -1) are left out.

    Example:
        >>> import numpy as np
        >>> from senet.data.labels import class_totals
        >>> class_totals(np.array([2, 2, -1]), 3), class_totals(np.array([[1, 1], [0, 1]]), 2)
        (array([0, 0, 2]), array([1, 2]))
    """
    if labels.ndim == 2:
        return labels.sum(axis=0, dtype=np.int64)
    return np.bincount(labels[labels >= 0], minlength=classes)
