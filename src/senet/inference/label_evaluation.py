"""Evaluating a multi-label classifier on a labelled data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from senet.data import Source
from senet.errors import DataError
from senet.inference.class_metrics import Calibration, calibration
from senet.inference.classes import output_names, outputs_of
from senet.inference.evaluation import Observer
from senet.inference.labels import thresholds_of
from senet.inference.logit_batches import logit_batches
from senet.tasks import MULTI_LABEL
from senet.tasks.class_metrics import macro_f1
from senet.tasks.intervals import Interval, bootstrap, jackknife, of_mean, wilson
from senet.tasks.label_metrics import (
    average_precisions,
    label_sums,
    mean_average_precision,
    micro_f1,
    precision_curve,
)
from senet.zoo import LoadedModel

__all__ = ["LabelMetrics", "MultiLabelEvaluation", "evaluate_labels"]


@dataclass(frozen=True)
class LabelMetrics:
    """Metrics of one label, in 0..1. Precision, recall and F1 are those at its threshold.

    Attributes:
        images: Number of images with the label.
        predicted: Number of images whose probability is at least the threshold.
        right: Number of images with the label whose probability is at least the threshold.
        threshold: Smallest probability at which an image is predicted to have the label.
        average_precision: Area under the curve of precision over recall, None without images.
        precision: `right / predicted`, None if the label is never predicted.
        recall: `right / images`, None without images.
        f1: Harmonic mean of precision and recall, None if the label is neither present nor predicted.
        precision_interval: 95 % interval of the precision over images.
        recall_interval: 95 % interval of the recall over images.

    Example:
        >>> from senet.inference import LabelMetrics
        >>> ship = LabelMetrics(4, 2, 1, threshold=0.3, average_precision=0.6, precision=0.5, recall=0.25, f1=1 / 3)
        >>> ship.f1 == 2 * ship.right / (ship.images + ship.predicted)
        True
    """

    images: int
    predicted: int
    right: int
    threshold: float
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    precision_interval: Interval | None = None
    recall_interval: Interval | None = None


@dataclass(frozen=True)
class MultiLabelEvaluation:
    """Result of an evaluation, with metrics in 0..1.

    Attributes:
        images: Number of images.
        map: Mean average precision over the labels with an image.
        micro_f1: F1 over all pairs of an image and a label, at the labels' thresholds.
        macro_f1: Mean F1 of the labels that are present or predicted.
        loss: Mean binary cross entropy in nats, over images and labels.
        calibration: Agreement of all probabilities, of each image and label, with the frequency of the label.
        classes: Label to its metrics, in the order of the network's outputs.
        curves: Label to its precision for recalls of 0, 0.01, ..., 1. Labels without images are left out.
        unreadable: (path, reason) of each image that was left out.
        intervals: Metric (`map`, `micro_f1`, `macro_f1`, `loss`) to its 95 % interval over images. Metrics without an
            interval are left out.
        seconds: Wall-clock time, loading included.

    Example:
        >>> from senet.inference import LabelMetrics, MultiLabelEvaluation
        >>> from senet.inference.class_metrics import Calibration
        >>> ship = LabelMetrics(4, 2, 1, threshold=0.3, average_precision=0.6, precision=0.5, recall=0.25, f1=1 / 3)
        >>> result = MultiLabelEvaluation(
        ...     images=24, map=0.81, micro_f1=0.7, macro_f1=0.6, loss=0.2, calibration=Calibration(0.1, None, ()),
        ...     classes={"ship": ship}, curves={}, unreadable=(), intervals={"map": (0.77, 0.84)}, seconds=3.2)
        >>> result.to_dict()["intervals"]
        {'map': (0.77, 0.84)}
    """

    images: int
    map: float
    micro_f1: float
    macro_f1: float
    loss: float
    calibration: Calibration
    classes: dict[str, LabelMetrics]
    curves: dict[str, list[float]]
    unreadable: tuple[tuple[str, str], ...]
    intervals: dict[str, tuple[float, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


def evaluate_labels(
    loaded: LoadedModel,
    source: Source,
    classes: Sequence[str],
    *,
    batch_size: int = 128,
    precision: str = "32",
    workers: int | None = None,
    device: torch.device | None = None,
    corrupt: str = "raise",
    tta: str = "",
    observe: Observer | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MultiLabelEvaluation:
    """Run a multi-label classifier over every image once, with the preprocessing of its training.

    A label of the network that the data lacks is taken as absent from all images.

    Args:
        loaded: The network. Its thresholds decide precision, recall and F1, see `CheckpointMetadata.thresholds`.
        source: The images and labels.
        classes: Names of the labels, see `outputs_of`.
        batch_size: Images in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses.
        device: The device. None is the accelerator if there is one, else the CPU.
        corrupt: `"raise"` or `"skip"`: how a corrupt image is handled. Skipped images are listed in the result.
        tta: Test-time augmentation, as in `senet.inference.evaluate`.
        observe: Called with each batch's predictions. Labels are (n, classes) bool.
        progress: Called with the numbers of images done and in all.

    Raises:
        SenetError: The network is no multi-label classifier.
        DataError: A label is unknown to the network, an image is corrupt, no image can be read, or none has a label.

    Example:
        >>> import numpy as np
        >>> import senet
        >>> from senet.data import MemorySource, sample_images
        >>> from senet.inference import evaluate_labels
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> source = MemorySource([(image,) for image in sample_images(2)], [[1, 1], [1, 0]], name="photos")
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=("sky", "person"), preprocessing=CIFAR, task="multi-label")
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=2).eval()
        >>> loaded = LoadedModel(network, metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> result = evaluate_labels(loaded, source, ["sky", "person"], workers=0)
        >>> result.images, result.classes["sky"].average_precision
        (2, 1.0)
    """
    started = time.monotonic()
    position, names = outputs_of(loaded, classes), output_names(loaded, classes)
    parts: list[tuple[Tensor, Tensor]] = []
    losses: list[float] = []
    unreadable: dict[str, str] = {}
    for batch in logit_batches(
        loaded, source, batch_size=batch_size, precision=precision, workers=workers, device=device, corrupt=corrupt,
        task=MULTI_LABEL, tta=tta, progress=progress,
    ):  # fmt: skip
        unreadable |= dict(batch.corrupt)
        targets = torch.zeros_like(batch.logits).index_copy_(1, position, batch.labels)
        losses += F.binary_cross_entropy_with_logits(batch.logits, targets, reduction="none").mean(1).tolist()
        parts.append((batch.logits.sigmoid(), targets.bool()))
        if observe is not None and len(targets):
            observe(batch.indices, parts[-1][1], parts[-1][0])
    if not losses:
        raise DataError("no image could be read")
    probabilities, truth = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    if not truth.any():
        raise DataError("no image has a label, so there is nothing to measure")
    done, of_loss = len(losses), of_mean(losses)
    sums = label_sums(probabilities, truth, thresholds_of(loaded))
    intervals = {
        "map": jackknife(done, lambda chosen: mean_average_precision(probabilities[chosen], truth[chosen])),
        "micro_f1": bootstrap(sums, micro_f1),
        "macro_f1": bootstrap(sums, macro_f1),
        "loss": of_loss,
    }
    return MultiLabelEvaluation(
        images=done,
        map=mean_average_precision(probabilities, truth),
        micro_f1=float(micro_f1(sums.sum(0))),
        macro_f1=float(macro_f1(sums.sum(0))),
        loss=math.fsum(losses) / done,
        calibration=calibration(probabilities.numpy(), truth.numpy()),
        classes=dict(zip(names, _by_label(sums.sum(0), average_precisions(probabilities, truth), loaded), strict=True)),
        curves={
            name: precision_curve(probabilities[:, n], truth[:, n]) for n, name in enumerate(names) if truth[:, n].any()
        },
        unreadable=tuple(unreadable.items()),
        intervals={name: interval for name, interval in intervals.items() if interval},
        seconds=time.monotonic() - started,
    )


def _by_label(sums: np.ndarray, precisions: np.ndarray, loaded: LoadedModel) -> list[LabelMetrics]:
    right, true, predicted = (values.astype(int).tolist() for values in sums)
    return [
        LabelMetrics(
            images=n,
            predicted=p,
            right=r,
            threshold=threshold,
            average_precision=None if math.isnan(average) else average,
            precision=r / p if p else None,
            recall=r / n if n else None,
            f1=2 * r / (n + p) if n + p else None,
            precision_interval=wilson(r, p) if p else None,
            recall_interval=wilson(r, n) if n else None,
        )
        for r, n, p, average, threshold in zip(
            right, true, predicted, precisions.tolist(), thresholds_of(loaded), strict=True
        )
    ]
