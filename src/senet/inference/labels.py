"""The labels of images by a multi-label classifier: those whose probability is at least their threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from senet.tasks.label_metrics import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from torch import Tensor

    from senet.zoo import LoadedModel

__all__ = ["labels_above", "thresholds_of"]


def thresholds_of(loaded: LoadedModel) -> tuple[float, ...]:
    """Return the network's threshold of each label, 0.5 where none were chosen."""
    return loaded.metadata.thresholds or (DEFAULT_THRESHOLD,) * len(loaded.classes)


def labels_above(
    probabilities: Tensor, classes: Sequence[str], thresholds: Sequence[float]
) -> list[tuple[tuple[str, float], ...]]:
    """Return (label, probability) of each image's labels, descending.

    Args:
        probabilities: (N, classes).
        classes: Names of the labels.
        thresholds: Smallest probability of each label.
    """
    found = []
    for row in probabilities.tolist():
        own = [(name, p) for name, p, least in zip(classes, row, thresholds, strict=True) if p >= least]
        found.append(tuple(sorted(own, key=lambda pair: -pair[1])))
    return found
