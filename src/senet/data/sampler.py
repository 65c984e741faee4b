"""Batch samplers whose order depends on (seed, epoch) alone, for one process or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from senet.data.randomness import generator
from senet.errors import DataError

__all__ = ["EvalBatchSampler", "Key", "Order", "Shard", "TrainBatchSampler", "random_order"]

Key = tuple[int, int]
"""Epoch and index of a sample, as in `ImageDataset`."""

Order = Callable[[int, int], torch.Tensor]
"""From seed and epoch to a permutation of all indices, or a choice of them with repetitions, (N,) int64."""


class Shard(NamedTuple):
    """Rank of this process in a distributed run, and the number of processes.

    Example:
        >>> from senet.data import EvalBatchSampler, Shard
        >>> list(EvalBatchSampler(5, batch_size=2, shard=Shard(rank=1, world_size=2)))
        [[(0, 1), (0, 3)]]
    """

    rank: int = 0
    world_size: int = 1


def _check(batch_size: int, shard: Shard) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if not 0 <= shard.rank < shard.world_size:
        raise ValueError(f"rank={shard.rank} must lie in 0..{shard.world_size - 1}")


def random_order(length: int) -> Order:
    """Return an order that takes each of `length` images once."""
    return lambda seed, epoch: torch.randperm(length, generator=generator("order", seed, epoch))


class TrainBatchSampler(Sampler[list[Key]]):
    """Shuffled batches. Every process gets the same number of batches of the same sizes.

    All processes draw the same permutation from (seed, epoch), and each takes every `world_size`-th index. With
    `drop_last` an epoch leaves out the images that don't fill a batch on every process (others in the next epoch).
    Without it the last batch is smaller, and up to `world_size - 1` images occur twice to make the shares equal.

    With `groups` (such as portrait and landscape images, which fill a batch better apart) as many batches as possible
    are of one group. The remaining images make up mixed batches. The number of batches stays the same.

    Args:
        length: Number of images.
        batch_size: Images in a batch of one process.
        seed: The run's seed.
        shard: This process's share.
        drop_last: Whether to leave out an incomplete last batch.
        order: From seed and epoch to a permutation, (length,) int64, or None for a random one.
        groups: (length,) group of each image, or None for none.
        multiple: Divisor of the number of batches, for an optimizer step of several batches. Needs `drop_last`.

    Raises:
        ValueError: `batch_size`, `shard` or `multiple` is out of range.
        DataError: The images don't fill one batch.

    Example:
        >>> from senet.data import TrainBatchSampler
        >>> sampler = TrainBatchSampler(10, batch_size=4, seed=0)
        >>> sampler.set_epoch(2)
        >>> [[epoch for epoch, index in batch] for batch in sampler]
        [[2, 2, 2, 2], [2, 2, 2, 2]]
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        shard: Shard | None = None,
        drop_last: bool = True,
        order: Order | None = None,
        groups: np.ndarray | None = None,
        multiple: int = 1,
    ) -> None:
        if multiple < 1 or (multiple > 1 and not drop_last):
            raise ValueError(f"multiple={multiple} must be at least 1, and 1 without drop_last")
        self.multiple = multiple
        self.order = order or random_order(length)
        self.shard = shard or Shard()
        _check(batch_size, self.shard)
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.groups = None if groups is None else torch.as_tensor(groups)
        self.epoch = 0
        self._start = (0, 0)
        if len(self) == 0 or length < self.shard.world_size:
            most = length // self.shard.world_size
            advice = f"use a batch size of at most {most}" if most else "add images"
            raise DataError(
                f"{length} training images don't fill one batch of {batch_size} on {self.shard.world_size} "
                f"process{'es' * (self.shard.world_size > 1)}; {advice}"
            )

    @property
    def sampler(self) -> TrainBatchSampler:
        """The sampler itself. Lightning calls `set_epoch` of this attribute."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def resume_at(self, epoch: int, start_batch: int) -> None:
        """Choose the epoch, and skip its first batches whenever it is iterated. Other epochs stay whole."""
        self.epoch = epoch
        self._start = (epoch, start_batch)

    def __len__(self) -> int:
        """Count the batches of a whole epoch, also if this one starts later, for correct progress bars."""
        together = self.shard.world_size * self.batch_size
        batches = (self.length if self.drop_last else self.length + together - 1) // together
        return batches - batches % self.multiple

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        start = self._start[1] if self._start[0] == epoch else 0
        share = self._share(epoch)
        for batch in range(start, len(self)):
            indices = share[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in indices.tolist()]

    def _share(self, epoch: int) -> torch.Tensor:
        order = self.order(self.seed, epoch)
        if self.groups is not None:
            order = grouped(order, self.groups, self.batch_size * self.shard.world_size)
        order = torch.cat([order, order[: -self.length % self.shard.world_size]])
        return order[self.shard.rank :: self.shard.world_size]


def grouped(order: torch.Tensor, groups: torch.Tensor, size: int) -> torch.Tensor:
    """Reorder so that each run of `size` is of one group, as long as the groups last.

    Args:
        order: (N,) a permutation.
        groups: (N,) group of each index.
        size: Length of a run.

    Returns:
        The same indices. Runs come in the order in which they fill up, incomplete runs come last.
    """
    waiting: dict[int, list[int]] = {}
    full: list[int] = []
    for index, group in zip(order.tolist(), groups[order].tolist(), strict=True):
        row = waiting.setdefault(group, [])
        row.append(index)
        if len(row) == size:
            full += row
            row.clear()
    rest = {index for row in waiting.values() for index in row}
    return torch.tensor(full + [index for index in order.tolist() if index in rest], dtype=order.dtype)


class EvalBatchSampler(Sampler[list[Key]]):
    """Batches in order, each image exactly once over all processes. The shares differ by at most one image.

    Args:
        length: Number of images.
        batch_size: Images in a batch of one process. The last batch may be smaller.
        shard: This process's share.

    Attributes:
        shared_batches: Number of whole batches that every process has.

    Raises:
        ValueError: `batch_size` or `shard` is out of range.

    Example:
        >>> from senet.data import EvalBatchSampler
        >>> list(EvalBatchSampler(3, batch_size=2))  # (epoch, index) of each image
        [[(0, 0), (0, 1)], [(0, 2)]]
    """

    def __init__(self, length: int, batch_size: int, *, shard: Shard | None = None) -> None:
        self.shard = shard or Shard()
        _check(batch_size, self.shard)
        self.share = range(self.shard.rank, length, self.shard.world_size)
        self.shared_batches = length // self.shard.world_size // batch_size
        self.batch_size = batch_size

    def __len__(self) -> int:
        return (len(self.share) + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        for start in range(0, len(self.share), self.batch_size):
            yield [(0, index) for index in self.share[start : start + self.batch_size]]
