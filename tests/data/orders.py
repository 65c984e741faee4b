"""What holds of every source: batches follow from seed and epoch, however many workers, processes and interruptions."""

from __future__ import annotations

import torch

from senet.data import ImageDataset, Shard, Source, eval_transform, train_loader
from senet.preprocessing import CIFAR


def batches(source: Source, *, start: int = 0, workers: int = 0, shard: Shard | None = None, size: int = 4):
    """Batches of epoch 1 from a place on, as (labels, indices, pixels)."""
    dataset = ImageDataset(source, eval_transform(CIFAR), seed=7, corrupt="raise")
    loader = train_loader(dataset, batch_size=size, workers=workers, shard=shard)
    loader.batch_sampler.resume_at(1, start)
    return [(batch.labels, batch.indices, batch.images) for batch in loader]


def assert_exact(source: Source) -> None:
    """The same batches with workers, after an interruption, and of two processes together."""
    whole = batches(source)
    assert len(whole) == len(source) // 4
    for again in (batches(source, workers=2), whole[:3] + batches(source, start=3)):
        assert len(again) == len(whole)
        for one, other in zip(whole, again, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    shares = [batches(source, shard=Shard(rank, 2), size=2) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == len(whole)
    for (_, together, _), *parts in zip(whole, *shares, strict=True):
        assert sorted(together.tolist()) == sorted(i for _, indices, _ in parts for i in indices.tolist())
    indices = torch.cat([found for _, found, _ in whole])
    assert len(set(indices.tolist())) == len(indices), "every image once"
    assert indices.tolist() != sorted(indices.tolist()), "shuffled"
