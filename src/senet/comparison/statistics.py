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

FLOAT32 = 1e-6
"""Relative precision of an accuracy that was computed in float32."""

SNAP = 0.02
"""A number of images this near to a whole one is that one: an accuracy is a count, divided and rounded."""


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
            pair, or pairs that all differ by the same and nobody knows on how many images.
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


def paired(
    values: Mapping[int, float],
    baseline: Mapping[int, float],
    *,
    images: int | None = None,
    level: float = LEVEL,
) -> Difference | None:
    """The mean difference of two networks over the seeds that both have, with its t interval.

    Pairing by seed takes out what both runs share: the order of the images and their random changes.

    Accuracies on few images are counts in disguise: two networks can differ by the same number of images with each of
    a few seeds by chance. With `images`, each result is known to half an image only. Two such errors add 1/6 image^2 to
    the variance of a difference, and the interval reaches one image farther on either side. So it is never of zero
    width, and a single image more, even with every seed, is no difference.

    Args:
        values: Seed to result, in percent.
        baseline: The same of the network that it is compared with.
        images: How many images the results were measured on; None leaves the resolution out.
        level: Of the interval, in (0, 1).

    Returns:
        None if they have no seed in common.

    Source: Student's t for paired samples; without `images` equal to
        `scipy.stats.ttest_rel(...).confidence_interval()`. Sheppard 1898 for the variance of rounding.
    """
    seeds = sorted(values.keys() & baseline.keys())
    if not seeds:
        return None
    image = 100 / images if images else 0.0
    found = spread([_in_images(values[seed] - baseline[seed], image) for seed in seeds])
    rounding = FLOAT32 * max(abs(result[seed]) for result in (values, baseline) for seed in seeds)
    if found.sd is None or (not image and found.sd <= rounding):
        return Difference(found.count, found.mean * (image or 1), None, level)
    from scipy.stats import t

    sd = math.sqrt(found.sd**2 + 1 / 6) if image else found.sd
    half = float(t.ppf((1 + level) / 2, found.count - 1)) * sd / math.sqrt(found.count) + (1 if image else 0)
    block = image or 1
    return Difference(
        found.count, found.mean * block, ((found.mean - half) * block, (found.mean + half) * block), level
    )


def _in_images(difference: float, image: float) -> float:
    """A difference in images, a whole number where it is nearly one; unchanged where `image` is 0."""
    if not image:
        return difference
    count = difference / image
    return round(count) if abs(count - round(count)) < SNAP else count


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
