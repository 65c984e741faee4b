"""PyTorch `DataLoader`s over `ImageDataset`, whose batches don't depend on how many processes make them."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from senet.data.dataset import Batch, ImageDataset, collate
from senet.data.sampler import EvalBatchSampler, Key, Shard, TrainBatchSampler

__all__ = ["default_workers", "eval_loader", "train_loader"]


def default_workers() -> int:
    """One worker process for each processor this process may use, at most 8; none if there is only one."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8) if usable > 1 else 0


def train_loader(
    dataset: ImageDataset,
    *,
    batch_size: int,
    shard: Shard | None = None,
    drop_last: bool = True,
    workers: int | None = None,
) -> DataLoader[Batch]:
    """Shuffled batches of one process's share; `loader.batch_sampler` is a `TrainBatchSampler`.

    With Lightning use `Trainer(use_distributed_sampler=False)`; it sets the epoch itself.

    Args:
        dataset: The images; the order follows from its seed.
        batch_size: Images a batch and process.
        shard: This process's share.
        drop_last: Whether to leave out an incomplete last batch.
        workers: Processes that decode; 0 for none, None for `default_workers()`.

    Raises:
        DataError: The set doesn't fill one batch.
    """
    order = TrainBatchSampler(
        len(dataset), batch_size, seed=dataset.seed, shard=shard, drop_last=drop_last,
        order=getattr(dataset.source, "order", None),
    )  # fmt: skip
    return _loader(dataset, order, workers)


def eval_loader(
    dataset: ImageDataset, *, batch_size: int, shard: Shard | None = None, workers: int | None = None
) -> DataLoader[Batch]:
    """Batches in order, each image exactly once over all processes.

    Args:
        dataset: The images.
        batch_size: Images a batch and process; the last batch may be smaller.
        shard: This process's share.
        workers: Processes that decode; 0 for none, None for `default_workers()`.
    """
    return _loader(dataset, EvalBatchSampler(len(dataset), batch_size, shard=shard), workers)


def _loader(dataset: ImageDataset, order: Sampler[list[Key]], workers: int | None) -> DataLoader[Batch]:
    workers = default_workers() if workers is None else workers
    return DataLoader[Any](
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_interrupts_to_the_main_process,
        generator=torch.Generator(),  # else each iteration would draw a number from the global generator
    )


def _leave_interrupts_to_the_main_process(_: int) -> None:
    """Ctrl-C reaches every process; only the main one is to answer it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
