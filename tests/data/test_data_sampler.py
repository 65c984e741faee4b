from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senet.data import EvalBatchSampler, Shard, TrainBatchSampler
from senet.errors import DataError

lengths = st.integers(1, 200)
sizes = st.integers(1, 20)
worlds = st.integers(1, 5)


def indices(sampler) -> list[int]:
    return [index for batch in sampler for _, index in batch]


@given(lengths, sizes, worlds, st.integers(0, 50))
def test_dropping_shares_are_equal_and_disjoint(length, size, world, epoch):
    samplers = []
    for rank in range(world):
        if length < size * world:
            with pytest.raises(DataError):
                TrainBatchSampler(length, size, shard=Shard(rank, world))
            return
        samplers.append(TrainBatchSampler(length, size, shard=Shard(rank, world)))
        samplers[-1].set_epoch(epoch)
    seen = [index for sampler in samplers for index in indices(sampler)]
    assert len(set(seen)) == len(seen) == length // (size * world) * size * world
    for sampler in samplers:
        assert [len(batch) for batch in sampler] == [size] * len(sampler)
        assert {key for batch in sampler for key, _ in batch} == {epoch}


@given(lengths, sizes, worlds)
def test_padding_shares_are_equal_and_cover_everything(length, size, world):
    if length < world:
        with pytest.raises(DataError, match="; add images"):
            TrainBatchSampler(length, size, shard=Shard(0, world), drop_last=False)
        return
    samplers = [TrainBatchSampler(length, size, shard=Shard(r, world), drop_last=False) for r in range(world)]
    shares = [indices(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {-(-length // world)}
    assert {len(list(sampler)) for sampler in samplers} == {len(samplers[0])}
    assert set().union(*shares) == set(range(length))
    assert sum(map(len, shares)) - length < world


@given(lengths, sizes, worlds)
def test_evaluation_shares_hold_each_index_once(length, size, world):
    samplers = [EvalBatchSampler(length, size, shard=Shard(rank, world)) for rank in range(world)]
    assert sorted(index for sampler in samplers for index in indices(sampler)) == list(range(length))
    for sampler in samplers:
        assert len(list(sampler)) == len(sampler)
        assert all(len(batch) <= size for batch in sampler)
        assert indices(sampler) == sorted(indices(sampler))


@given(st.integers(20, 100), st.integers(1, 5), st.integers(0, 5), st.integers(0, 9))
def test_resuming_leaves_out_the_first_batches_of_that_epoch_only(length, size, epoch, start):
    whole = TrainBatchSampler(length, size, seed=4)
    part = TrainBatchSampler(length, size, seed=4)
    whole.set_epoch(epoch)
    part.resume_at(epoch, start)
    part.set_epoch(epoch)  # as Lightning does at the start of the epoch
    assert list(part) == list(whole)[start:]
    assert len(part) == len(whole)
    for sampler in (part, whole):
        sampler.set_epoch(epoch + 1)
    assert list(part) == list(whole)


def test_order_depends_on_seed_and_epoch():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = TrainBatchSampler(50, 10, seed=seed)
        sampler.set_epoch(epoch)
        return indices(sampler)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 6
    assert order(0, 1) == orders[1]
    assert order(0, 0) != list(range(50))


def test_processes_share_one_permutation():
    """Two processes with batches of 4 see together what one sees with batches of 8."""
    alone = list(TrainBatchSampler(48, 8))
    shared = zip(*(list(TrainBatchSampler(48, 4, shard=Shard(rank, 2))) for rank in range(2)), strict=True)
    assert [set(batch) for batch in alone] == [set(a) | set(b) for a, b in shared]


@pytest.mark.parametrize("make", [TrainBatchSampler, EvalBatchSampler])
def test_wrong_numbers(make):
    with pytest.raises(ValueError, match="batch_size=0"):
        make(10, 0)
    with pytest.raises(ValueError, match=r"rank=2 must lie in 0\.\.1"):
        make(10, 2, shard=Shard(2, 2))
