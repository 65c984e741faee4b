"""Running a classifier over a source of images, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from senet.data import ImageDataset, Source, eval_loader
from senet.errors import DataError, SenetError
from senet.inference.device import running
from senet.inference.tta import with_views
from senet.tasks import CLASSIFICATION, MULTI_LABEL
from senet.tasks.logits import logits_of
from senet.zoo import LoadedModel

__all__ = ["LogitBatch", "logit_batches"]


class LogitBatch(NamedTuple):
    """Logits and labels of some images, on the CPU, without corrupt images.

    Attributes:
        indices: (n,) positions in the source.
        labels: (n,) class numbers, or (n, classes) targets of multi-label images.
        logits: (n, outputs) float32.
        corrupt: (path, reason) of each corrupt image of the batch.
    """

    indices: Tensor
    labels: Tensor
    logits: Tensor
    corrupt: list[tuple[str, str]]


def logit_batches(
    loaded: LoadedModel,
    source: Source,
    *,
    batch_size: int,
    precision: str,
    workers: int | None,
    device: torch.device | None,
    corrupt: str,
    task: str,
    tta: str,
    progress: Callable[[int, int], None] | None,
) -> Iterator[LogitBatch]:
    """Run a classifier over every image once. `task` is the required one, others are as in `senet.inference.evaluate`.

    Raises:
        SenetError: The network is for another task.
        DataError: The labels are for another task, or an image is corrupt and `corrupt="raise"`.
    """
    if loaded.metadata.task != task:
        raise SenetError(f"{loaded.metadata.model} is a network for {loaded.metadata.task}, not for {task}")
    if (source.labels.ndim == 2) != (task == MULTI_LABEL):
        other = MULTI_LABEL if source.labels.ndim == 2 else CLASSIFICATION
        raise DataError(f"the images are labelled for {other}, and {loaded.metadata.model} is for {task}")
    transform, model = with_views(loaded, tta)
    dataset = ImageDataset(source, transform, corrupt=corrupt)
    seen = 0
    with running(model, precision, device) as device:
        for batch in eval_loader(dataset, batch_size=batch_size, workers=workers):
            output = model(batch.images.to(device, memory_format=torch.channels_last))
            logits = logits_of(output, len(loaded.classes), name=loaded.metadata.model).float().cpu()
            valid = batch.valid
            yield LogitBatch(batch.indices[valid], batch.labels[valid], logits[valid], batch.corrupt)
            seen += len(batch.images)
            if progress is not None:
                progress(seen, len(dataset))
