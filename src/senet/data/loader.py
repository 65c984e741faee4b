"""PyTorch `DataLoader`s over `ImageDataset` and similar data sets. Batches don't depend on the number of workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from senet.data.quiet import quiet_pillow
from senet.data.sampler import EvalBatchSampler, Key, Order, Shard, TrainBatchSampler

__all__ = ["Samples", "default_workers", "eval_loader", "train_loader"]


class Samples(Protocol):
    """The interface of data sets for a loader. Samples must depend on (seed, epoch, index) alone, as in `ImageDataset`.

    Attributes:
        seed: The run's seed.
        groups: (N,) group of each sample, if batches should be of one group, else None.
        order: From seed and epoch to the fastest permutation to read, or None for a random one.
    """

    seed: int
    groups: np.ndarray | None

    @property
    def order(self) -> Order | None: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Any: ...

    def collate(self, samples: Sequence[Any], /) -> Any:
        """Make one batch."""


def default_workers() -> int:
    """Return the default number of worker processes: one per usable CPU core, at most 8, and none for one core.

    Example:
        >>> from senet.data import default_workers
        >>> 0 <= default_workers() <= 8
        True
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8) if usable > 1 else 0


def train_loader(
    dataset: Samples,
    *,
    batch_size: int,
    shard: Shard | None = None,
    drop_last: bool = True,
    multiple: int = 1,
    workers: int | None = None,
) -> DataLoader[Any]:
    """Make a loader of shuffled batches of one process's share. `loader.batch_sampler` is a `TrainBatchSampler`.

    With Lightning use `Trainer(use_distributed_sampler=False)`. Lightning sets the epoch itself.

    Args:
        dataset: The images. The order follows from its seed.
        batch_size: Images in a batch of one process.
        shard: This process's share.
        drop_last: Whether to leave out an incomplete last batch.
        multiple: Divisor of the number of batches, see `TrainBatchSampler`.
        workers: Processes that decode, 0 for none, None for `default_workers()`.

    Raises:
        DataError: The set doesn't fill one batch.

    Example:
        >>> from senet.data import Augmentation, ImageDataset, open_data, train_loader, train_transform
        >>> data = open_data("digits")
        >>> transform = train_transform(data.default_preprocessing, Augmentation(crop="pad", hflip=0.0))
        >>> loader = train_loader(ImageDataset(data.train, transform, seed=1), batch_size=64, workers=0)
        >>> loader.batch_sampler.set_epoch(3)
        >>> next(iter(loader)).images.dtype
        torch.uint8
    """
    order = TrainBatchSampler(
        len(dataset), batch_size, seed=dataset.seed, shard=shard, drop_last=drop_last, order=dataset.order,
        groups=dataset.groups, multiple=multiple,
    )  # fmt: skip
    return _loader(dataset, order, workers)


def eval_loader(
    dataset: Samples, *, batch_size: int, shard: Shard | None = None, workers: int | None = None
) -> DataLoader[Any]:
    """Make a loader of batches in order, each image exactly once over all processes.

    Args:
        dataset: The images.
        batch_size: Images in a batch of one process. The last batch may be smaller.
        shard: This process's share.
        workers: Processes that decode, 0 for none, None for `default_workers()`.

    Example:
        >>> from senet.data import ImageDataset, eval_loader, eval_transform, open_data
        >>> data = open_data("digits")
        >>> dataset = ImageDataset(data.val, eval_transform(data.default_preprocessing))
        >>> sum(len(batch.images) for batch in eval_loader(dataset, batch_size=100, workers=0)) == len(data.val)
        True
    """
    return _loader(dataset, EvalBatchSampler(len(dataset), batch_size, shard=shard), workers)


def _loader(dataset: Samples, order: Sampler[list[Key]], workers: int | None) -> DataLoader[Any]:
    workers = default_workers() if workers is None else workers
    return DataLoader[Any](
        dataset,  # type: ignore[arg-type]
        batch_sampler=order,
        collate_fn=dataset.collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # otherwise each iteration draws from the global generator
    )


def _begin_worker(_: int) -> None:
    """Ignore Ctrl-C, which reaches every process. Only the main process handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_pillow()
