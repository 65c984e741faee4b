"""Intervals and verdicts, against scipy and against what must hold of any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from senet.comparison.statistics import Difference, paired, spread, verdict

accuracies = st.floats(0, 100, allow_nan=False).map(lambda value: round(value, 2))
pairs = st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=8)


def as_seeds(values):
    return dict(enumerate(values))


def difference(rows):
    return paired(as_seeds([a for a, _ in rows]), as_seeds([b for _, b in rows]))


@given(pairs, st.sampled_from([0.8, 0.95, 0.99]))
def test_it_is_the_t_interval_of_paired_samples(rows, level):
    a, b = np.array(rows).T
    assume(np.ptp(a - b) > 1e-6)
    found = paired(as_seeds(a), as_seeds(b), level=level)
    wanted = stats.ttest_rel(a, b).confidence_interval(level)
    assert found.interval == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert found.mean == pytest.approx(np.mean(a - b))


@given(pairs)
def test_turning_the_comparison_round_turns_the_interval_round(rows):
    one, other = difference(rows), difference([(b, a) for a, b in rows])
    assert one.mean == pytest.approx(-other.mean, abs=1e-9)
    assert one.shows == other.shows
    if one.interval:
        assert one.interval == pytest.approx([-other.interval[1], -other.interval[0]], abs=1e-9)


@given(pairs, st.floats(-50, 50))
def test_what_moves_both_moves_nothing(rows, move):
    one, other = difference(rows), difference([(a + move, b + move) for a, b in rows])
    assert one.mean == pytest.approx(other.mean, abs=1e-6)
    if one.interval and one.interval[1] - one.interval[0] > 1e-3:
        assert one.interval == pytest.approx(other.interval, abs=1e-4)


@given(pairs)
def test_the_mean_lies_in_the_middle_and_the_order_of_seeds_is_nothing(rows):
    found = difference(rows)
    if found.interval:
        assert sum(found.interval) / 2 == pytest.approx(found.mean, abs=1e-6)
    shuffled = dict(reversed(list(as_seeds([a for a, _ in rows]).items())))
    assert paired(shuffled, as_seeds([b for _, b in rows])) == found


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = [
        found.interval[0] <= 0.5 <= found.interval[1]
        for found in (
            paired(as_seeds(base + rng.normal(0.5, 0.3, 3)), as_seeds(base))
            for base in (rng.normal(90, 2, 3) for _ in range(4000))
        )
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def accuracy(right, images):
    return 100 * float(np.float32(right / images))


@pytest.mark.parametrize("images", [12, 100, 360, 1797, 10_000, 50_000])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10, 100])
def test_one_image_more_with_every_seed_is_no_difference(images, seeds):
    rng = np.random.default_rng(images + seeds)
    base = {seed: int(rng.integers(images // 2, images - 1)) for seed in range(seeds)}
    here, there = ({seed: accuracy(right + more, images) for seed, right in base.items()} for more in (1, 0))
    for found in (paired(here, there, images=images), paired(there, here, images=images)):
        assert found.interval[1] - found.interval[0] > 2 * 100 / images
        assert not found.shows
        assert verdict(found).startswith(f"no significant difference over {seeds} seeds: ")
    unknown = paired(here, there)
    assert unknown.interval is None, "without the number of images nothing can be told from equal differences"
    assert "no interval can be estimated" in verdict(unknown)


@pytest.mark.parametrize("counts", [[1, 1, 2], [0, 1, 1], [1, 1, 1, 1, 2], [2, 2], [-1, 0, 1]])
def test_a_few_images_are_no_difference(counts):
    found = paired({s: accuracy(300 + c, 360) for s, c in enumerate(counts)},
                   {s: accuracy(300, 360) for s in range(len(counts))}, images=360)  # fmt: skip
    assert not found.shows


def test_no_differences_at_all_have_a_width_too():
    found = paired({0: 90.0, 1: 91.0}, {0: 90.0, 1: 91.0}, images=100)
    assert found.mean == 0
    assert found.interval[0] < -1
    assert found.interval[1] > 1


def test_many_images_more_are_a_difference():
    found = paired({s: accuracy(300 + c, 360) for s, c in enumerate([12, 14, 13])},
                   {s: accuracy(300, 360) for s in range(3)}, images=360)  # fmt: skip
    assert found.shows
    assert found.mean == pytest.approx(100 * 13 / 360)


@given(pairs, st.integers(1000, 1_000_000))
def test_of_many_images_it_is_nearly_the_t_interval(rows, images):
    plain, found = difference(rows), paired(*(as_seeds(column) for column in zip(*rows, strict=True)), images=images)
    assert found.mean == pytest.approx(plain.mean, abs=100 * 0.02 / images + 1e-9)
    if plain.interval:
        assert found.interval[0] < plain.interval[0]
        assert plain.interval[1] < found.interval[1]
        assert found.interval == pytest.approx(plain.interval, abs=800 / images)


def test_pairs_are_those_seeds_that_both_have():
    assert paired({0: 2.0, 2: 5.0, 3: 1.0}, {2: 1.0, 0: 1.0, 7: 9.0}) == paired({0: 2.0, 2: 5.0}, {0: 1.0, 2: 1.0})
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_too_little_for_an_interval():
    assert paired({0: 91.0}, {0: 90.0}) == Difference(1, 1.0, None)
    same = paired({0: 91.0, 1: 92.0}, {0: 90.0, 1: 91.0})
    assert (same.mean, same.interval, same.shows) == (1.0, None, False)
    assert spread([4.0]).sd is None
    assert spread([1.0, 3.0]).sd == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("found", "ratio", "said"),
    [
        (Difference(3, 0.6, (0.2, 1.0)), 1.04, "+0.60 points [+0.20, +1.00] for 1.04x time"),
        (Difference(3, -0.6, (-1.0, -0.2)), None, "-0.60 points [-1.00, -0.20]"),
        (Difference(3, 0.1, (-0.5, 0.7)), 1.04,
         "no significant difference over 3 seeds: +0.10 points [-0.50, +0.70] for 1.04x time"),
        (Difference(1, 0.6, None), 1.0,
         "+0.60 points for 1.00x time, from one seed: no verdict without several (--seeds 3)"),
        (Difference(2, 0.6, None), None, "+0.60 points with each of 2 seeds: no interval can be estimated"),
    ],
)  # fmt: skip
def test_verdicts(found, ratio, said):
    assert verdict(found, ratio) == said
