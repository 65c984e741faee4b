"""Evaluating a classifier on a labelled data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from senet.data import Source
from senet.errors import DataError
from senet.inference.class_metrics import Calibration, ClassMetrics, calibration, class_metrics, overall_metrics
from senet.inference.classes import output_names, outputs_of
from senet.inference.logit_batches import logit_batches
from senet.tasks import CLASSIFICATION
from senet.tasks.intervals import of_mean, wilson
from senet.zoo import LoadedModel

__all__ = ["Evaluation", "Observer", "evaluate"]


class Observer(Protocol):
    """A consumer of predictions, which need not be kept in memory."""

    def __call__(self, indices: Tensor, labels: Tensor, probabilities: Tensor, /) -> None:
        """Take one batch: positions in the source (n,), true classes (n,), probabilities (n, classes)."""


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation, with accuracies in 0..1.

    Attributes:
        images: Number of images.
        top1: Fraction of images whose likeliest class is right.
        top5: Fraction of images with the right class among the likeliest five, None with five classes or fewer.
        loss: Mean cross entropy in nats.
        per_class: Class to the top-1 accuracy of its images, or None without images.
        confusion: (true class, predicted class) counts, rows and columns in the order of the network's classes.
        balanced_accuracy: Mean recall of the classes with images.
        macro_f1: Mean F1 of the classes that are present or predicted.
        calibration: Expected calibration error and reliability diagram.
        classes: Class to its precision, recall and F1, in the order of the network's classes.
        unreadable: (path, reason) of each image that was left out.
        intervals: Metric (`top1`, `top5`, `loss`, `balanced_accuracy`, `macro_f1`) to its 95 % interval over images.
            Metrics without an interval are left out.
        seconds: Wall-clock time, loading included.

    Example:
        >>> import senet
        >>> from senet.data import open_data, subsample
        >>> from senet.inference import Evaluation, evaluate
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> data = open_data("digits")
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=data.classes, preprocessing=data.default_preprocessing)
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=10, in_channels=1).eval()
        >>> loaded = LoadedModel(network, data.classes, data.default_preprocessing, metadata)  # or load_model(PATH)
        >>> result: Evaluation = evaluate(loaded, subsample(data.val, 20), data.classes, workers=0)
        >>> sum(map(sum, result.confusion)) == result.images == 20
        True
    """

    images: int
    top1: float
    top5: float | None
    loss: float
    per_class: dict[str, float | None]
    confusion: list[list[int]]
    balanced_accuracy: float
    macro_f1: float
    calibration: Calibration
    classes: dict[str, ClassMetrics]
    unreadable: tuple[tuple[str, str], ...]
    intervals: dict[str, tuple[float, float]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


def evaluate(
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
) -> Evaluation:
    """Run a classifier over every image once, with the preprocessing of its training.

    Args:
        loaded: The network.
        source: The images and labels.
        classes: Class names of the labels, see `outputs_of`.
        batch_size: Images in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses.
        device: The device. None is the accelerator if there is one, else the CPU.
        corrupt: `"raise"` or `"skip"`: how a corrupt image is handled. Skipped images are listed in the result.
        tta: Test-time augmentation: `"flip"`, `"five-crop"` or `"ten-crop"`, whose probabilities are averaged. Empty is
            none.
        observe: Called with each batch's predictions.
        progress: Called with the numbers of images done and in all.

    Raises:
        SenetError: The network is no classifier of one class an image, see `evaluate_labels` and `evaluate_dense`.
        DataError: A class is unknown to the network, an image is corrupt, or no image can be read.
        SenetError: The augmentation is unknown, or the preprocessing leaves no margin for it.

    Example:
        >>> import senet
        >>> from senet.data import open_data, subsample
        >>> from senet.inference import evaluate
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> data = open_data("digits")
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=data.classes, preprocessing=data.default_preprocessing)
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=10, in_channels=1).eval()
        >>> loaded = LoadedModel(network, data.classes, data.default_preprocessing, metadata)  # or load_model(PATH)
        >>> result = evaluate(loaded, subsample(data.val, 20), data.classes, workers=0)
        >>> result.images, 0 <= result.top1 <= result.top5
        (20, True)
    """
    started = time.monotonic()
    position = outputs_of(loaded, classes)
    count = len(loaded.classes)
    # This process evaluates alone, also after a training with several processes.
    top1 = MulticlassAccuracy(count, average="micro", sync_on_compute=False)
    top5 = MulticlassAccuracy(count, average="micro", top_k=5, sync_on_compute=False) if count > 5 else None
    confusion = MulticlassConfusionMatrix(count, sync_on_compute=False)
    losses: list[float] = []
    confidences: list[float] = []
    right: list[bool] = []
    unreadable: dict[str, str] = {}
    for batch in logit_batches(
        loaded, source, batch_size=batch_size, precision=precision, workers=workers, device=device, corrupt=corrupt,
        task=CLASSIFICATION, tta=tta, progress=progress,
    ):  # fmt: skip
        unreadable |= dict(batch.corrupt)
        if not len(batch.labels):
            continue
        logits, labels = batch.logits, position[batch.labels]
        losses += F.cross_entropy(logits, labels, reduction="none").tolist()
        for metric in (top1, confusion) if top5 is None else (top1, top5, confusion):
            metric.update(logits, labels)
        probabilities = logits.softmax(1)
        confidence, predicted = probabilities.max(1)
        confidences += confidence.tolist()
        right += (predicted == labels).tolist()
        if observe is not None:
            observe(batch.indices, labels, probabilities)
    if not losses:
        raise DataError("no image could be read")
    matrix = confusion.compute()
    names = output_names(loaded, classes)
    classes_found = dict(zip(names, class_metrics(matrix.numpy()), strict=True))
    overall, overall_intervals = overall_metrics(matrix.numpy())
    done = len(losses)
    shares = {"top1": float(top1.compute())} | ({} if top5 is None else {"top5": float(top5.compute())})
    intervals = {name: wilson(round(share * done), done) for name, share in shares.items()}
    of_loss = of_mean(losses)
    return Evaluation(
        images=done,
        top1=shares["top1"],
        top5=shares.get("top5"),
        loss=math.fsum(losses) / done,
        per_class={name: found.recall for name, found in classes_found.items()},
        confusion=matrix.tolist(),
        balanced_accuracy=overall["balanced_accuracy"],
        macro_f1=overall["macro_f1"],
        calibration=calibration(confidences, right),
        classes=classes_found,
        unreadable=tuple(unreadable.items()),
        intervals=intervals | overall_intervals | ({"loss": of_loss} if of_loss else {}),
        seconds=time.monotonic() - started,
    )
