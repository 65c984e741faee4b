"""95 % confidence intervals over images for metrics of finite data sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

__all__ = ["LEVEL", "Interval", "bootstrap", "bootstrap_confusion", "jackknife", "of_mean", "wilson"]

LEVEL = 0.95

Interval = tuple[float, float]

RESAMPLES = 1000
GROUPS = 10

AGREED = 1e-9
"""Metrics of resampled images that differ by less are equal."""


def wilson(right: float, count: int, *, level: float = LEVEL) -> Interval:
    """Return the interval of a fraction that was counted: `right` of `count` images.

    It never has zero width and lies within 0..1, also if all or no images are right.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference"; equal to
        `scipy.stats.binomtest(right, count).proportion_ci(level, "wilson")`.
    """
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))
    share, total = right / count, count + z * z
    middle = (right + z * z / 2) / total
    half = z / total * math.sqrt(count * share * (1 - share) + z * z / 4)
    low = 0.0 if right == 0 else middle - half
    return max(0.0, low), 1.0 if right == count else min(1.0, middle + half)


def of_mean(values: Sequence[float] | np.ndarray, *, level: float = LEVEL) -> Interval | None:
    """Return Student's t interval of a mean over images, or None for a single image."""
    from scipy.stats import t

    if len(values) < 2:
        return None
    array = np.asarray(values, dtype=np.float64)
    half = float(t.ppf((1 + level) / 2, len(array) - 1)) * float(array.std(ddof=1)) / math.sqrt(len(array))
    mean = float(array.mean())
    return mean - half, mean + half


def bootstrap(
    sums: np.ndarray, figure: Callable[[np.ndarray], np.ndarray], *, level: float = LEVEL, seed: int = 0
) -> Interval | None:
    """Return the percentile interval of a metric in 0..1 of sums over images, such as the mean IoU.

    Args:
        sums: (N, ...) contribution of each image.
        figure: From (R, ...) sums over resampled images to (R,) metrics.
        level: Confidence level.
        seed: Seed of the resampling.

    Returns:
        None for a single image, or if no metric is finite. If all images agree, the interval of a fraction of images,
        since agreement of few images is no certainty.

    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    count = len(sums)
    if count < 2:
        return None
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    flat = sums.reshape(count, -1).astype(np.float64)
    return _percentiles(figure((draws @ flat).reshape(RESAMPLES, *sums.shape[1:])), count, level)


def bootstrap_confusion(
    confusion: np.ndarray,
    figures: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    *,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the percentile intervals of metrics in 0..1 of a classifier's confusion matrix, by name.

    Images of one cell are alike, so the cells are resampled in place of the images, as in `bootstrap`.

    Args:
        confusion: (C, C) counts of (true class, predicted class), one per image.
        figures: Name to a function from (R, 3, C) right, true and predicted images of each class to (R,) metrics.
        level: Confidence level.
        seed: Seed of the resampling.

    Returns:
        As `bootstrap`, without the metrics that have no interval.
    """
    count, classes = int(confusion.sum()), len(confusion)
    if count < 2:
        return {}
    true, predicted = np.nonzero(confusion)
    rng, shares = np.random.default_rng(seed), confusion[true, predicted] / count
    sums = np.zeros((RESAMPLES, 3, classes))
    for row in sums:  # one resample at a time, since there may be as many cells as images
        drawn = rng.multinomial(count, shares)
        row[0] = np.bincount(true, drawn * (true == predicted), minlength=classes)
        row[1] = np.bincount(true, drawn, minlength=classes)
        row[2] = np.bincount(predicted, drawn, minlength=classes)
    found = {name: _percentiles(figure(sums), count, level) for name, figure in figures.items()}
    return {name: interval for name, interval in found.items() if interval}


def _percentiles(figures: np.ndarray, count: int, level: float) -> Interval | None:
    figures = figures[np.isfinite(figures)]
    if not len(figures):
        return None
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return wilson(float(low) * count, count, level=level) if high - low < AGREED else (float(low), float(high))


def jackknife(count: int, figure: Callable[[np.ndarray], float], *, level: float = LEVEL) -> Interval | None:
    """Return the interval of an expensive metric by leaving out one of up to 10 groups of images at a time.

    Args:
        count: Number of images.
        figure: From the positions of some images to their metric, in 0..1.
        level: Confidence level.

    Returns:
        An interval within 0..1, or None for a single image. If all images agree, the interval of a fraction of images.

    Source: Shao and Wu 1989, "A general theory for jackknife variance estimation" (delete-d, disjoint groups).
    """
    from scipy.stats import t

    groups = min(GROUPS, count)
    if groups < 2:
        return None
    positions = np.arange(count)
    left = np.array([figure(positions[positions % groups != group]) for group in range(groups)])
    whole = figure(positions)
    error = math.sqrt((groups - 1) / groups * float(((left - left.mean()) ** 2).sum()))
    if error < AGREED:
        return wilson(whole * count, count, level=level)
    half = float(t.ppf((1 + level) / 2, groups - 1)) * error
    return max(0.0, whole - half), min(1.0, whole + half)
