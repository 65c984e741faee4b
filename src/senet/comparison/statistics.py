"""What several seeds show: mean, spread, and the difference of two networks with a confidence interval.

Pure functions of numbers. A network's accuracy moves with the seed by about as much as attention moves it, so one
run of each shows nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Difference", "Spread", "paired", "spread", "verdict"]

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Some values, summed up.

    Attributes:
        count: How many.
        mean: Their mean.
        sd: Their standard deviation (of a sample: n - 1); None with one value.
    """

    count: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """How far one network lies from another, paired by seed.

    Attributes:
        count: Pairs.
        mean: Mean of the differences.
        interval: Where the true mean difference lies with probability `level`; None where it can't be estimated: one
            pair, or pairs that all differ by the same (as accuracies on few images do).
        level: 0..1.
    """

    count: int
    mean: float
    interval: tuple[float, float] | None
    level: float = LEVEL

    @property
    def shows(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of at least one value."""
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired(values: Mapping[int, float], baseline: Mapping[int, float], *, level: float = LEVEL) -> Difference | None:
    """The mean difference of two networks over the seeds that both have, with its t interval.

    Pairing by seed takes out what both runs share: the order of the images and their random changes.

    Args:
        values: Seed to result.
        baseline: The same of the network that it is compared with.
        level: Of the interval, in (0, 1).

    Returns:
        None if they have no seed in common.

    Source: Student's t for paired samples; equal to `scipy.stats.ttest_rel(...).confidence_interval()`.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    found = spread([values[seed] - baseline[seed] for seed in seeds])
    if not found.sd:
        return Difference(found.count, found.mean, None, level)
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, found.count - 1)) * found.sd / math.sqrt(found.count)
    return Difference(found.count, found.mean, (found.mean - half, found.mean + half), level)


def verdict(difference: Difference, time_ratio: float | None = None) -> str:
    """One plain sentence: is there a difference, how large, and at what price?

    Args:
        difference: In percentage points of accuracy.
        time_ratio: Time of a training step over the baseline's; None where it wasn't measured.
    """
    price = "" if time_ratio is None else f" for {time_ratio:.2f}x time"
    points = f"{difference.mean:+.2f} points"
    if difference.count == 1:
        return f"{points}{price}, from one seed: no verdict without several (--seeds 3)"
    if difference.interval is None:
        return f"{points}{price} with each of {difference.count} seeds: no interval can be estimated from that"
    bounded = f"{points} [{difference.interval[0]:+.2f}, {difference.interval[1]:+.2f}]{price}"
    return bounded if difference.shows else f"no difference that {difference.count} seeds can show: {bounded}"
