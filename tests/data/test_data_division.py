"""Folds and groups: every image is validated once, and no group is on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senet.data import division
from senet.data.division import divide_images, fold_numbers, strata_of
from senet.data.split import SplitSpec

IMAGES = st.integers(2, 5).flatmap(
    lambda folds: st.tuples(
        st.just(folds),
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=folds, max_size=40),
        st.integers(0, 2**40),
        st.booleans(),
    )
)


def paths(count: int) -> list[str]:
    return [f"{number:03d}.jpg" for number in range(count)]


@settings(max_examples=30)
@given(IMAGES)
def test_each_image_is_in_one_fold_and_no_group_is_divided(case):
    folds, images, seed, multi_label = case
    groups = [f"g{group}" for _, group in images[folds:]]
    groups += [f"only{number}" for number in range(folds)]  # as many groups as folds, at least
    labels = np.array([label for label, _ in images])
    if multi_label:
        labels = np.array([[label >> bit & 1 for bit in range(2)] for label in labels], dtype=np.uint8)
    names = paths(len(images))
    for own in (None, groups):
        seen = np.zeros(len(images), dtype=int)
        for fold in range(1, folds + 1):
            train, val = divide_images(names, SplitSpec(1 / folds, seed, folds, fold), labels, own)
            assert sorted([*train, *val]) == list(range(len(images)))
            seen[val] += 1
            if own is not None:
                assert not {own[i] for i in train} & {own[i] for i in val}
        assert (seen == 1).all()


@given(st.permutations(range(24)), st.integers(0, 99), st.sampled_from([None, "groups"]))
@settings(max_examples=20)
def test_the_order_of_the_images_has_no_effect(order, seed, grouped):
    names, labels = paths(24), np.arange(24) % 3
    groups = [f"g{number // 3}" for number in range(24)] if grouped else None
    before = fold_numbers(names, 4, seed, labels, groups)
    after = fold_numbers([names[i] for i in order], 4, seed, labels[list(order)], groups and [groups[i] for i in order])
    assert (after == before[list(order)]).all()


def test_folds_are_stratified():
    labels = np.repeat([0, 1, 2], [40, 10, 5])
    folds = fold_numbers(paths(55), 5, 0, labels)
    assert [np.bincount(labels[folds == fold]).tolist() for fold in range(1, 6)] == [[8, 2, 1]] * 5


def test_a_fraction_takes_from_each_class_and_leaves_one():
    labels = np.repeat([0, 1, 2, 3], [100, 10, 2, 1])
    _, val = divide_images(paths(113), SplitSpec(0.2, 0), labels)
    assert np.bincount(labels[val], minlength=4).tolist() == [20, 2, 1, 0]
    _, most = divide_images(paths(113), SplitSpec(0.9, 0), labels)
    assert np.bincount(labels[most], minlength=4).tolist() == [90, 9, 1, 0]


def test_a_new_image_moves_at_most_one_other():
    labels = np.zeros(101, dtype=int)
    before = set(divide_images(paths(100), SplitSpec(0.2, 0), labels[:100])[1].tolist())
    after = set(divide_images(paths(101), SplitSpec(0.2, 0), labels)[1].tolist())
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.7])
def test_groups_take_about_the_fraction(fraction):
    groups = [f"g{number % 40}" for number in range(400)]
    _, val = divide_images(paths(400), SplitSpec(fraction, 0), np.arange(400) % 7, groups)
    assert len(val) / 400 == pytest.approx(fraction, abs=0.05)


def test_many_groups_are_dealt_out(monkeypatch):
    monkeypatch.setattr(division, "MOST_GROUPS", 5)
    groups, labels = [f"g{number % 30}" for number in range(300)], np.arange(300) % 30 % 3
    folds = fold_numbers(paths(300), 5, 0, labels, groups)
    assert len({(group, fold) for group, fold in zip(groups, folds, strict=True)}) == 30
    assert [np.bincount(labels[folds == fold]).tolist() for fold in range(1, 6)] == [[20, 20, 20]] * 5


def test_too_few_groups():
    with pytest.raises(ValueError, match="2 groups can't make 3 folds"):
        fold_numbers(paths(9), 3, 0, None, ["a", "b", "b"] * 3)


def test_several_labels_are_stratified_by_the_rarest():
    assert strata_of(np.array([[1, 0], [1, 1], [1, 0], [0, 0]], dtype=np.uint8)).tolist() == [0, 1, 0, 2]


def test_the_division_is_fixed():
    """A new release must not move images: its seed and paths are all that a run records."""
    names, labels = paths(12), np.arange(12) % 2
    groups = [f"g{number // 2}" for number in range(12)]
    assert divide_images(names, SplitSpec(0.25, 3), labels)[1].tolist() == [3, 4, 5, 10]
    assert fold_numbers(names, 3, 3, labels).tolist() == [3, 1, 2, 1, 1, 2, 3, 3, 1, 3, 2, 2]
    assert fold_numbers(names, 3, 3, labels, groups).tolist() == [2, 2, 1, 1, 3, 3, 1, 1, 3, 3, 2, 2]
