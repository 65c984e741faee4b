"""PyTorch `DataLoader`s over `ImageDataset` and its like; batches don't depend on how many processes make them."""

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
    """What a loader needs of a data set: `ImageDataset`, or another whose samples depend on (seed, epoch, index) alone.

    Attributes:
        seed: The run's seed.
        groups: (N,) the group of each sample, where a batch shall be of one group as far as possible; else None.
        order: From seed and epoch to the permutation that the samples are best read in; None for a random one.
    """

    seed: int
    groups: np.ndarray | None

    @property
    def order(self) -> Order | None: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key, /) -> Any: ...

    def collate(self, samples: Sequence[Any], /) -> Any:
        """One batch."""


def default_workers() -> int:
    """One worker process for each processor this process may use, at most 8; none if there is only one."""
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
    """Shuffled batches of one process's share; `loader.batch_sampler` is a `TrainBatchSampler`.

    With Lightning use `Trainer(use_distributed_sampler=False)`; it sets the epoch itself.

    Args:
        dataset: The images; the order follows from its seed.
        batch_size: Images a batch and process.
        shard: This process's share.
        drop_last: Whether to leave out an incomplete last batch.
        multiple: The number of batches is a multiple of this, see `TrainBatchSampler`.
        workers: Processes that decode; 0 for none, None for `default_workers()`.

    Raises:
        DataError: The set doesn't fill one batch.
    """
    order = TrainBatchSampler(
        len(dataset), batch_size, seed=dataset.seed, shard=shard, drop_last=drop_last, order=dataset.order,
        groups=dataset.groups, multiple=multiple,
    )  # fmt: skip
    return _loader(dataset, order, workers)


def eval_loader(
    dataset: Samples, *, batch_size: int, shard: Shard | None = None, workers: int | None = None
) -> DataLoader[Any]:
    """Batches in order, each image exactly once over all processes.

    Args:
        dataset: The images.
        batch_size: Images a batch and process; the last batch may be smaller.
        shard: This process's share.
        workers: Processes that decode; 0 for none, None for `default_workers()`.
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
        generator=torch.Generator(),  # else each iteration would draw a number from the global generator
    )


def _begin_worker(_: int) -> None:
    """Ctrl-C reaches every process; only the main one is to answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    quiet_pillow()
