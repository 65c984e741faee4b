"""Rare classes: which they are, how they are weighed, and how often their images come."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from senet.data import Shard
from senet.data.balance import balanced_order, balanced_weights, rare_classes, report_rare_classes, weights_by_name
from senet.data.sampler import TrainBatchSampler
from senet.errors import SenetError

LABELS = np.array([0] * 50 + [1] * 9 + [2] * 2)


def test_each_class_comes_equally_often_and_repeats_only_after_all_its_images():
    order = balanced_order(LABELS)
    seen = set()
    for epoch in range(12):
        indices = order(3, epoch)
        assert len(indices) == len(LABELS) == len(set(indices.tolist())), "repetitions have numbers of their own"
        counts = np.bincount(LABELS[indices % len(LABELS)])
        assert sorted(counts) == [20, 20, 21]
        seen.add(int(counts.argmax()))
        for label in (1, 2):
            times = np.bincount(indices % len(LABELS), minlength=len(LABELS))[label == LABELS]
            assert times.max() - times.min() <= 1
    assert seen == {0, 1, 2}, "no class is always the one that gets the remainder"


def test_the_order_follows_from_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = balanced_order(LABELS)(0, 5)
    torch.rand(7)
    assert torch.equal(first, balanced_order(LABELS)(0, 5))
    assert not torch.equal(first, balanced_order(LABELS)(0, 6))
    assert not torch.equal(first, balanced_order(LABELS)(1, 5))


def test_shares_of_processes_make_up_the_whole_and_a_resumed_epoch_its_rest():
    order = balanced_order(LABELS)
    whole = [key for batch in TrainBatchSampler(len(LABELS), 8, order=order) for key in batch]
    shares = [
        [key for batch in TrainBatchSampler(len(LABELS), 4, order=order, shard=Shard(rank, 2)) for key in batch]
        for rank in (0, 1)
    ]
    assert sorted(whole) == sorted(shares[0] + shares[1])
    resumed = TrainBatchSampler(len(LABELS), 8, order=order)
    resumed.resume_at(0, 3)
    assert [key for batch in resumed for key in batch] == whole[24:]


def test_weights_are_scikit_learns_and_have_mean_one_over_images():
    weights = balanced_weights({"cat": 50, "dog": 9, "ship": 2, "none": 0})
    assert weights["none"] == 1.0
    assert weights["dog"] == pytest.approx(61 / (3 * 9))
    assert sum(weights[n] * c for n, c in (("cat", 50), ("dog", 9), ("ship", 2))) == pytest.approx(61)


def test_weights_are_checked_by_name():
    assert list(weights_by_name({"dog": 2, "cat": 1}, ["cat", "dog"]).items()) == [("cat", 1.0), ("dog", 2.0)]
    with pytest.raises(SenetError, match="no weight for 'dog'"):
        weights_by_name({"cat": 1}, ["cat", "dog"])
    with pytest.raises(SenetError, match="'dgo' is not a class"):
        weights_by_name({"cat": 1, "dog": 1, "dgo": 1}, ["cat", "dog"])


def test_rare_classes_are_named_with_their_counts():
    counts = {"a": 30, "b": 25, "c": 25, "ship": 4}
    assert rare_classes(counts) == ["ship: 4 of 84 images"]
    assert rare_classes({"a": 30, "b": 30, "c": 8}) == []
    lines: list[str] = []
    report_rare_classes(counts, lines.append, corrected=False)
    report_rare_classes(counts, lines.append, corrected=True)
    assert "--class-weights balanced" in lines[0]
    assert lines[1] == "rare classes: ship: 4 of 84 images"
