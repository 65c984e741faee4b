"""Classifying image files, with one row for each file. An unreadable file gives a row with its error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from senet.data import CorruptImage, default_workers, eval_transform
from senet.data.inputs import transformed_file
from senet.data.sources import PathList
from senet.inference.device import running
from senet.preprocessing import Preprocessing
from senet.tasks.logits import logits_of
from senet.zoo import LoadedModel

__all__ = ["Prediction", "predict"]


@dataclass(frozen=True)
class Prediction:
    """Prediction of one file.

    Attributes:
        path: The file.
        top: (class, probability) of the likeliest classes, descending, empty if the file is unreadable.
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
    def __init__(self, paths: Sequence[str], preprocessing: Preprocessing) -> None:
        self.paths = PathList(paths)
        self.transform = eval_transform(preprocessing)

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
    if workers is None:
        workers = default_workers() if len(paths) > 2 * batch_size else 0
    files = _Files(paths, loaded.preprocessing)
    loader = DataLoader(files, batch_size=batch_size, num_workers=workers, collate_fn=list)
    done = 0
    with running(loaded.model, precision) as device:
        for batch in loader:
            images = [item for _, item in batch if isinstance(item, Tensor)]
            predictions = iter(_classify(loaded, torch.stack(images).to(device), top) if images else ())
            for index, item in batch:
                if isinstance(item, str):
                    yield Prediction(paths[index], error=item)
                else:
                    yield Prediction(paths[index], next(predictions))
            done += len(batch)
            if progress is not None:
                progress(done, len(paths))


def _classify(loaded: LoadedModel, images: Tensor, top: int) -> list[tuple[tuple[str, float], ...]]:
    output = loaded.model(images.contiguous(memory_format=torch.channels_last))
    logits = logits_of(output, len(loaded.classes), name=loaded.metadata.model)
    values, numbers = logits.float().softmax(1).topk(top, 1)
    return [
        tuple((loaded.classes[n], p) for n, p in zip(row_numbers, row_values, strict=True))
        for row_numbers, row_values in zip(numbers.tolist(), values.tolist(), strict=True)
    ]
