"""Evaluating a network of any task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from senet.inference.dense import DenseEvaluation, evaluate_dense
from senet.inference.evaluation import Evaluation, evaluate
from senet.inference.label_evaluation import MultiLabelEvaluation, evaluate_labels
from senet.tasks import CLASSIFICATION, MULTI_LABEL
from senet.zoo import LoadedModel

__all__ = ["evaluate_task", "metric_of"]

_EVALUATIONS: dict[str, Any] = {CLASSIFICATION: evaluate, MULTI_LABEL: evaluate_labels}
"""Task to its evaluation. All others are dense."""


def evaluate_task(
    loaded: LoadedModel, source: Any, classes: Sequence[str], **settings: Any
) -> Evaluation | MultiLabelEvaluation | DenseEvaluation:
    """Evaluate a network by the function of its task.

    Args:
        loaded: The network.
        source: The images and their labels.
        classes: Class names of the labels.
        **settings: Further arguments of `evaluate`, `evaluate_labels` or `evaluate_dense`.
    """
    run = _EVALUATIONS.get(loaded.metadata.task, evaluate_dense)
    result: Evaluation | MultiLabelEvaluation | DenseEvaluation = run(loaded, source, classes, **settings)
    return result


def metric_of(result: Evaluation | MultiLabelEvaluation | DenseEvaluation, key: str) -> float:
    """Return a metric of a result by the key of `senet.tasks.task.Metric`."""
    return float(result.metrics[key] if isinstance(result, DenseEvaluation) else getattr(result, key))
