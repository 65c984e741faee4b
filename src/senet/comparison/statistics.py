"""Statistics over seeds: mean, standard deviation, and the difference of two networks with a confidence interval.

The accuracy of a network varies with the seed about as much as with attention, so one run of each shows nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Difference", "Spread", "paired", "spread", "verdict"]

LEVEL = 0.95

FLOAT32 = 1e-6
"""Relative precision of an accuracy computed in float32."""

SNAP = 0.02
"""Largest distance of a number of images from a whole number to be rounded to it, since an accuracy is a count."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of some values.

    Attributes:
        count: Number of values.
        mean: Mean.
        sd: Sample standard deviation (n - 1), None for one value.

    Example:
        >>> from senet.comparison import Spread, spread
        >>> spread([1.0, 3.0]) == Spread(count=2, mean=2.0, sd=2**0.5)
        True
    """

    count: int
    mean: float
    sd: float | None


@dataclass(frozen=True)
class Difference:
    """The mean difference of two networks, paired by seed.

    Attributes:
        count: Number of pairs.
        mean: Mean of the differences.
        interval: Confidence interval of the mean difference. None for one pair, or for equal differences on an unknown
            number of images.
        level: Confidence level in 0..1.

    Example:
        >>> from senet.comparison import Difference
        >>> Difference(count=3, mean=0.4, interval=(0.1, 0.7)).shows
        True
        >>> Difference(count=3, mean=0.4, interval=(-0.2, 1.0)).shows
        False
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
    """Return mean and standard deviation of at least one value.

    Example:
        >>> from senet.comparison import spread
        >>> spread([91.0, 92.0, 93.0])
        Spread(count=3, mean=92.0, sd=1.0)
    """
    return Spread(len(values), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def paired(
    values: Mapping[int, float],
    baseline: Mapping[int, float],
    *,
    images: int | None = None,
    level: float = LEVEL,
) -> Difference | None:
    """Estimate the mean difference of two networks over their common seeds, with a t interval.

    Pairing by seed removes the effects common to both runs: the order of the images and their augmentation.

    Accuracies on few images are counts, and two networks can differ by the same count with every seed by chance. With
    `images`, each result is known to half an image. Two such errors add 1/6 image^2 to the variance of a difference,
    and the interval is extended by one image on either side. The interval then never has zero width, and one image
    more with every seed does not count as a difference.

    Args:
        values: Seed to result in percent.
        baseline: Seed to result of the baseline network in percent.
        images: Number of evaluated images. None ignores the resolution of the results.
        level: Confidence level of the interval, in (0, 1).

    Returns:
        The difference, None without a common seed.

    Source: Student's t for paired samples. Without `images` equal to
        `scipy.stats.ttest_rel(...).confidence_interval()`. Sheppard 1898 for the variance of rounding.

    Example:
        >>> from senet.comparison import paired
        >>> se, plain = {0: 92.0, 1: 92.5, 2: 92.3}, {0: 91.1, 1: 91.8, 2: 91.4}
        >>> difference = paired(se, plain, images=10_000)
        >>> low, high = difference.interval
        >>> f"{difference.mean:.2f} [{low:.2f}, {high:.2f}]", difference.shows
        ('0.83 [0.54, 1.13]', True)
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
    scale = image or 1
    return Difference(
        found.count, found.mean * scale, ((found.mean - half) * scale, (found.mean + half) * scale), level
    )


def _in_images(difference: float, image: float) -> float:
    """Convert a difference to images, rounded where nearly whole, unchanged if `image` is 0."""
    if not image:
        return difference
    count = difference / image
    return round(count) if abs(count - round(count)) < SNAP else count


def verdict(difference: Difference, time_ratio: float | None = None) -> str:
    """Summarize a difference in one sentence, with its interval and its cost in time.

    Args:
        difference: Difference in percentage points of accuracy.
        time_ratio: Time of a training step relative to the baseline's, None if not measured.

    Example:
        >>> from senet.comparison import Difference, verdict
        >>> verdict(Difference(count=3, mean=0.83, interval=(0.54, 1.13)), time_ratio=1.1)
        '+0.83 points [+0.54, +1.13] for 1.10x time'
        >>> verdict(Difference(count=3, mean=0.2, interval=(-0.3, 0.7)))
        'no significant difference over 3 seeds: +0.20 points [-0.30, +0.70]'
    """
    time = "" if time_ratio is None else f" for {time_ratio:.2f}x time"
    points = f"{difference.mean:+.2f} points"
    if difference.count == 1:
        return f"{points}{time}, from one seed: no verdict without several (--seeds 3)"
    if difference.interval is None:
        return f"{points}{time} with each of {difference.count} seeds: no interval can be estimated"
    bounded = f"{points} [{difference.interval[0]:+.2f}, {difference.interval[1]:+.2f}]{time}"
    return bounded if difference.shows else f"no significant difference over {difference.count} seeds: {bounded}"
