"""Evaluating and using networks for detection and segmentation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from senet.data import CorruptImage, DenseSource, eval_loader, load_image
from senet.data.masks import IGNORE_INDEX
from senet.errors import DataError
from senet.inference.classes import output_names, outputs_of
from senet.inference.device import running
from senet.inference.tta import with_flip
from senet.tasks import task_named
from senet.tasks.dense import DenseTask
from senet.zoo import LoadedModel

__all__ = ["DenseEvaluation", "DensePrediction", "evaluate_dense", "predict_dense"]


@dataclass(frozen=True)
class DenseEvaluation:
    """Result of an evaluation.

    Attributes:
        images: Number of images.
        metrics: The task's metrics by key, in 0..1.
        per_class: Class to its metrics. Segmentation has IoU and Dice of each class, None if it is neither present nor
            predicted. Detection has the mAP of each class that is present.
        intervals: Metric to its 95 % interval over images. Metrics without an interval are left out.
        image_metrics: Metrics of each evaluated image, with its `index` in the source and a `score` in 0..1: the mean
            IoU of its classes, or the F1 of its boxes. None without any object.
        details: Further results: `curves` of detection, class to the precision at IoU 0.5 for recalls of 0, 0.01, ...,
            1, and `confusion` of segmentation, (true class, predicted class) counts of pixels.
        unreadable: (path, reason) of each image that was left out.
        seconds: Wall-clock time, loading included.

    Example:
        >>> from senet.inference import DenseEvaluation
        >>> result = DenseEvaluation(24, {"miou": 0.81}, {"cell": {"iou": 0.81}}, {"miou": (0.77, 0.84)}, seconds=3.2)
        >>> result.to_dict()["metrics"]
        {'miou': 0.81}
    """

    images: int
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    intervals: dict[str, tuple[float, float]]
    seconds: float
    image_metrics: tuple[dict[str, float | None], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    unreadable: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


@dataclass(frozen=True)
class DensePrediction:
    """An image and the network's prediction.

    Attributes:
        path: The file.
        image: The decoded image, or None if it is unreadable.
        prediction: Boxes, or a mask: see `DenseTask.predictions`.
        error: Reason why the file is unreadable, otherwise empty.

    Example:
        >>> from senet.inference import DensePrediction
        >>> prediction = DensePrediction("cells/7.png", error="not an image")
        >>> prediction.image is None, f"{prediction.path}: {prediction.error}"
        (True, 'cells/7.png: not an image')
    """

    path: str
    image: Image.Image | None = None
    prediction: Any = None
    error: str = ""


def task_of(loaded: LoadedModel) -> DenseTask:
    """Return the task of a detector or segmentation network."""
    task = task_named(loaded.metadata.task)
    assert isinstance(task, DenseTask)
    return task


def evaluate_dense(
    loaded: LoadedModel,
    source: DenseSource,
    classes: Sequence[str],
    *,
    batch_size: int = 8,
    precision: str = "32",
    workers: int | None = None,
    corrupt: str = "raise",
    tta: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> DenseEvaluation:
    """Run a network over every image once, and measure at the image's own size.

    Args:
        loaded: The network.
        source: The images and their annotations.
        classes: Class names of the labels, see `outputs_of`.
        batch_size: Images in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses.
        corrupt: `"raise"` or `"skip"`: how a corrupt image is handled. Skipped images are listed in the result.
        tta: `"flip"` averages a segmentation network's probabilities over the image and its mirror image. Empty is
            none.
        progress: Called with the numbers of images done and in all.

    Raises:
        DataError: A class is unknown to the network, an image is corrupt, or no image can be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from senet.data.masks import MaskSource
        >>> from senet.inference import evaluate_dense
        >>> from senet.preprocessing import CIFAR
        >>> from senet.tasks import task_named
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> image, mask = (Path(tempfile.mkdtemp(), name) for name in ("image.png", "mask.png"))
        >>> Image.new("RGB", (64, 48)).save(image), Image.new("L", (64, 48)).save(mask)
        (None, None)
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=("sky", "bird"), preprocessing=CIFAR, task="segmentation")
        >>> network = task_named("segmentation").build(
        ...     "se_cifar_resnet20", num_classes=2, preprocessing=CIFAR, options={}, head={})
        >>> loaded = LoadedModel(network.eval(), metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> source = MaskSource([image], [mask], classes=2, instances=False)
        >>> sorted(evaluate_dense(loaded, source, ["sky", "bird"], workers=0).metrics)
        ['dice', 'miou']
    """
    started = time.monotonic()
    numbers = class_numbers(outputs_of(loaded, classes))
    task = task_of(loaded)
    model = with_flip(loaded, tta)
    objective = task.objective(output_names(loaded, classes), alone=True)
    dataset = task.evaluated(source, loaded.preprocessing, corrupt=corrupt)
    indices: list[int] = []
    unreadable: dict[str, str] = {}
    done = 0
    with running(model, precision) as device:
        objective.to(device)
        for batch in eval_loader(dataset, batch_size=batch_size, workers=workers):
            targets = [
                {key: (numbers[value.long()] if key in NUMBERED else value).to(device) for key, value in target.items()}
                for target in batch.targets
            ]
            images = [image.to(device) for image in batch.images]
            objective.validation_step(model, batch._replace(images=images, targets=targets))
            indices += batch.indices[batch.valid].tolist()
            unreadable |= dict(batch.corrupt)
            done += len(images)
            if progress is not None:
                progress(done, len(dataset))
    if not indices:
        raise DataError("no image could be read")
    metrics = {key: float(value) for key, value in objective.val_metrics().items()}
    per_class: dict[str, dict[str, float | None]] = {
        name: {key: None if math.isnan(value) else value for key, value in values.items()}
        for name, values in objective.per_class.items()
    }
    return DenseEvaluation(
        images=len(indices),
        metrics=metrics,
        per_class=per_class,
        intervals=dict(objective.intervals),
        seconds=time.monotonic() - started,
        image_metrics=tuple({"index": i} | dict(m) for i, m in zip(indices, objective.images, strict=True)),
        details=dict(objective.details),
        unreadable=tuple(unreadable.items()),
    )


NUMBERED = ("labels", "mask")
"""Targets that hold class numbers."""


def class_numbers(outputs: Tensor) -> Tensor:
    """(256,) or more: the network's number for each class number of the data. `IGNORE_INDEX` stays unchanged."""
    table = torch.arange(max(len(outputs), IGNORE_INDEX + 1))
    table[: len(outputs)] = outputs
    if len(outputs) <= IGNORE_INDEX:
        table[IGNORE_INDEX] = IGNORE_INDEX
    return table


def predict_dense(
    loaded: LoadedModel,
    paths: Sequence[str],
    *,
    batch_size: int = 8,
    precision: str = "32",
    tta: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[DensePrediction]:
    """Predict for image files, in their order. An unreadable file gives a prediction with its error.

    Args:
        loaded: The network.
        paths: Image files.
        batch_size: Files in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        tta: As in `evaluate_dense`.
        progress: Called with the numbers of files done and in all.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from senet.inference import predict_dense
        >>> from senet.preprocessing import CIFAR
        >>> from senet.tasks import task_named
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> path = tempfile.mkdtemp() + "/image.png"
        >>> Image.new("RGB", (64, 48)).save(path)
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=("sky", "bird"), preprocessing=CIFAR, task="segmentation")
        >>> network = task_named("segmentation").build(
        ...     "se_cifar_resnet20", num_classes=2, preprocessing=CIFAR, options={}, head={})
        >>> loaded = LoadedModel(network.eval(), metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> [row.prediction.shape for row in predict_dense(loaded, [path])]  # class numbers
        [torch.Size([48, 64])]
    """
    task = task_of(loaded)
    transform, model = task.transform(loaded.preprocessing, None), with_flip(loaded, tta)
    with running(model, precision) as device:
        for start in range(0, len(paths), batch_size):
            read: list[DensePrediction] = [_read(path, loaded) for path in paths[start : start + batch_size]]
            originals = [row.image for row in read if row.image is not None]
            images: list[Tensor] = [transform.alone(original).to(device) for original in originals]
            sizes = [(original.height, original.width) for original in originals]
            predictions = iter(task.predictions(model, images, sizes) if images else ())
            for row in read:
                yield row if row.image is None else DensePrediction(row.path, row.image, next(predictions))
            if progress is not None:
                progress(min(start + batch_size, len(paths)), len(paths))


def _read(path: str, loaded: LoadedModel) -> DensePrediction:
    try:
        return DensePrediction(path, load_image(path, white_level=loaded.preprocessing.white_level))
    except CorruptImage as error:
        return DensePrediction(path, error=error.reason)
