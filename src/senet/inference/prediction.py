"""Classifying image files, with one row for each file. An unreadable file gives a row with its error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from senet.data import CorruptImage, default_workers
from senet.data.inputs import transformed_file
from senet.data.sources import PathList
from senet.inference.device import running
from senet.inference.labels import labels_above, thresholds_of
from senet.inference.tta import with_views
from senet.tasks.logits import logits_of
from senet.zoo import LoadedModel

__all__ = ["Prediction", "predict", "predict_labels"]


@dataclass(frozen=True)
class Prediction:
    """Prediction of one file.

    Attributes:
        path: The file.
        top: (class, probability) of the likeliest classes, or of all labels of a multi-label image, descending. Empty
            if the file is unreadable, or has no label.
        error: Reason why the file is unreadable, otherwise empty.

    Example:
        >>> from senet.inference import Prediction
        >>> prediction = Prediction("rex.jpg", top=(("dog", 0.93), ("cat", 0.07)))
        >>> prediction.top[0]
        ('dog', 0.93)
    """

    path: str
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""


class _Files(Dataset[tuple[int, Tensor | str]]):
    def __init__(self, paths: Sequence[str], transform: Callable[[Any], Tensor]) -> None:
        self.paths = PathList(paths)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        try:
            return index, transformed_file(self.paths[index], self.transform)
        except CorruptImage as error:
            return index, error.reason


def predict(
    loaded: LoadedModel,
    paths: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 64,
    precision: str = "32",
    workers: int | None = None,
    tta: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Prediction]:
    """Classify image files with the preprocessing of the training, in the order of the files.

    Args:
        loaded: The network.
        paths: Image files.
        top: Number of classes in a row.
        batch_size: Files in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses, and uses none for few files.
        tta: Test-time augmentation, as in `evaluate`.
        progress: Called with the numbers of files done and in all.

    Example:
        >>> import senet
        >>> from senet.inference import predict
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=("cat", "dog"), preprocessing=CIFAR)
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=2).eval()
        >>> loaded = LoadedModel(network, metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> [(row.path, row.error) for row in predict(loaded, ["missing.jpg"])]
        [('missing.jpg', 'no such file')]
    """
    top = min(top, len(loaded.classes))

    def likeliest(logits: Tensor) -> list[tuple[tuple[str, float], ...]]:
        values, numbers = logits.softmax(1).topk(top, 1)
        return [
            tuple((loaded.classes[n], p) for n, p in zip(row_numbers, row_values, strict=True))
            for row_numbers, row_values in zip(numbers.tolist(), values.tolist(), strict=True)
        ]

    yield from _predict(
        loaded, paths, likeliest, batch_size=batch_size, precision=precision, workers=workers, tta=tta,
        progress=progress,
    )  # fmt: skip


def predict_labels(
    loaded: LoadedModel,
    paths: Sequence[str],
    *,
    thresholds: Sequence[float] | None = None,
    batch_size: int = 64,
    precision: str = "32",
    workers: int | None = None,
    tta: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Prediction]:
    """Predict the labels of image files by a multi-label classifier, in the order of the files.

    Args:
        loaded: The network.
        paths: Image files.
        thresholds: Smallest probability of each label. None takes the checkpoint's.
        batch_size: Files in a batch.
        precision: `"32"`, `"bf16"` or `"fp16"`.
        workers: Processes that decode. None chooses, and uses none for few files.
        tta: Test-time augmentation, as in `predict`.
        progress: Called with the numbers of files done and in all.

    Example:
        >>> import senet
        >>> from senet.inference import predict_labels
        >>> from senet.preprocessing import CIFAR
        >>> from senet.weights import CheckpointMetadata
        >>> from senet.zoo import LoadedModel
        >>> metadata = CheckpointMetadata(
        ...     model="se_cifar_resnet20", classes=("sky", "person"), preprocessing=CIFAR, task="multi-label")
        >>> network = senet.create_model("se_cifar_resnet20", num_classes=2).eval()
        >>> loaded = LoadedModel(network, metadata.classes, CIFAR, metadata)  # or senet.load_model(PATH)
        >>> [(row.path, row.error) for row in predict_labels(loaded, ["missing.jpg"])]
        [('missing.jpg', 'no such file')]
    """
    least = thresholds_of(loaded) if thresholds is None else thresholds
    yield from _predict(
        loaded, paths, lambda logits: labels_above(logits.sigmoid(), loaded.classes, least), batch_size=batch_size,
        precision=precision, workers=workers, tta=tta, progress=progress,
    )  # fmt: skip


def _predict(
    loaded: LoadedModel,
    paths: Sequence[str],
    read: Callable[[Tensor], list[tuple[tuple[str, float], ...]]],
    *,
    batch_size: int,
    precision: str,
    workers: int | None,
    tta: str,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Prediction]:
    """Run the files, and read the predictions from their logits."""
    if workers is None:
        workers = default_workers() if len(paths) > 2 * batch_size else 0
    transform, model = with_views(loaded, tta)
    files = _Files(paths, transform)
    loader = DataLoader(files, batch_size=batch_size, num_workers=workers, collate_fn=list)
    done = 0
    with running(model, precision) as device:
        for batch in loader:
            images = [item for _, item in batch if isinstance(item, Tensor)]
            predictions = iter(read(_logits(loaded, model, torch.stack(images).to(device))) if images else ())
            for index, item in batch:
                if isinstance(item, str):
                    yield Prediction(paths[index], error=item)
                else:
                    yield Prediction(paths[index], next(predictions))
            done += len(batch)
            if progress is not None:
                progress(done, len(paths))


def _logits(loaded: LoadedModel, model: nn.Module, images: Tensor) -> Tensor:
    output = model(images.contiguous(memory_format=torch.channels_last))
    return logits_of(output, len(loaded.classes), name=loaded.metadata.model).float()
