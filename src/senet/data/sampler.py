"""Which images make up which batch: from (seed, epoch) alone, for one process or many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from senet.data.randomness import generator
from senet.errors import DataError

__all__ = ["EvalBatchSampler", "Key", "Order", "Shard", "TrainBatchSampler"]

Key = tuple[int, int]
"""Epoch and index: what `ImageDataset` is asked for."""

Order = Callable[[int, int], torch.Tensor]
"""From seed and epoch to a permutation of all indices, (N,) int64."""


class Shard(NamedTuple):
    """Which process of a distributed run this is, and how many there are."""

    rank: int = 0
    world_size: int = 1


def _check(batch_size: int, shard: Shard) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    if not 0 <= shard.rank < shard.world_size:
        raise ValueError(f"rank={shard.rank} must lie in 0..{shard.world_size - 1}")


class TrainBatchSampler(Sampler[list[Key]]):
    """Shuffled batches; every process gets equally many, of the same sizes.

    All processes draw the same permutation from (seed, epoch), and each takes every `world_size`-th index of
    it. With `drop_last` the images that don't fill a batch on every process are left out of this epoch
    (others in the next); without it the last batch is smaller, and up to `world_size - 1` images of the
    permutation's start are seen twice to make the shares equal.

    With `groups` (such as upright and wide pictures, which fill a batch better apart) the permutation is reordered so
    that as many batches as possible are of one group; what is left of the groups makes up mixed ones, so that there
    are as many batches as without.

    Args:
        length: Number of images.
        batch_size: Images a batch and process.
        seed: The run's seed.
        shard: This process's share.
        drop_last: Whether to leave out an incomplete last batch.
        order: From seed and epoch to a permutation, (length,) int64; None for a random one.
        groups: (length,) the group of each image; None for none.
        multiple: The number of batches is a multiple of this, as where so many make up an optimizer step. Needs
            `drop_last`.

    Raises:
        ValueError: `batch_size`, `shard` or `multiple` out of range.
        DataError: Not even one batch.
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
        self.order = order or self._random
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
            advice = f"use a batch size of at most {most}" if most else "that is too few to train on"
            raise DataError(
                f"{length} training images don't fill one batch of {batch_size} on {self.shard.world_size} "
                f"process{'es' * (self.shard.world_size > 1)}; {advice}"
            )

    @property
    def sampler(self) -> TrainBatchSampler:
        """Itself: where Lightning looks for the object whose `set_epoch` it calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch

    def resume_at(self, epoch: int, start_batch: int) -> None:
        """Choose the epoch, and leave out its first batches whenever it is iterated; others stay whole."""
        self.epoch = epoch
        self._start = (epoch, start_batch)

    def __len__(self) -> int:
        """Batches of a whole epoch, also when this one starts later (so that progress is counted right)."""
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

    def _random(self, seed: int, epoch: int) -> torch.Tensor:
        return torch.randperm(self.length, generator=generator("order", seed, epoch))


def grouped(order: torch.Tensor, groups: torch.Tensor, size: int) -> torch.Tensor:
    """Reorder so that each run of `size` is of one group, as long as the groups last.

    Args:
        order: (N,) a permutation.
        groups: (N,) the group of each index.
        size: How many belong together.

    Returns:
        The same indices: the runs come in the order in which they fill up, what fills none comes last.
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
    """Batches in order, each image exactly once over all processes; the shares differ by at most one image.

    Args:
        length: Number of images.
        batch_size: Images a batch and process; the last batch may be smaller.
        shard: This process's share.

    Attributes:
        shared_batches: Number of whole batches that every process has.

    Raises:
        ValueError: `batch_size` or `shard` out of range.
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
