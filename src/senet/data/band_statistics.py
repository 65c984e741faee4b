"""Mean and standard deviation of each channel over the images of a source."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from senet.data.band_transform import scaled, white_of
from senet.data.bands import as_bands, read_bands
from senet.data.image_errors import CorruptImage, UnsuitableImage, as_corrupt_image
from senet.data.sources import Source
from senet.errors import DataError
from senet.preprocessing import FLOAT_DEPTH

__all__ = ["BandStatistics", "band_statistics"]


@dataclass(frozen=True)
class BandStatistics:
    """Statistics of each channel over all pixels, with white at 1, or of the values themselves for floating point.

    Attributes:
        channels: Number of channels.
        bit_depth: As `Preprocessing.bit_depth`.
        images: Number of images. Unreadable ones are left out.
        mean: Mean of each channel.
        std: Standard deviation of each channel. A constant channel has 1, so that it can be normalised.
        smallest: Smallest value of each channel.
        largest: Largest value of each channel.

    Example:
        >>> from senet.data import open_data
        >>> from senet.data.band_statistics import band_statistics
        >>> found = band_statistics(open_data("digits").train, channels=1)
        >>> found.images, [round(value, 2) for value in (*found.mean, *found.std)]
        (1438, [0.31, 0.38])
    """

    channels: int
    bit_depth: int
    images: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    smallest: tuple[float, ...]
    largest: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


class _Sums(NamedTuple):
    """Exact sums of one image: pixels, and for each channel the sum of values and of squares, in units of white."""

    pixels: int
    values: list[Fraction]
    squares: list[Fraction]
    smallest: list[float]
    largest: list[float]


def band_statistics(
    source: Source,
    *,
    channels: int,
    bit_depth: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> BandStatistics:
    """Compute mean and deviation of each channel over all pixels of all images.

    Integers are summed exactly. Of floating point each image is summed in float64, and the images exactly.

    Args:
        source: The images.
        channels: Number of channels.
        bit_depth: As `Preprocessing.bit_depth`.
        progress: Called with the numbers of images done and in all.

    Raises:
        DataError: An image has other channels or another bit depth, or no image can be read.
    """
    pixels, images = 0, 0
    values, squares = [Fraction(0)] * channels, [Fraction(0)] * channels
    smallest, largest = [math.inf] * channels, [-math.inf] * channels

    def sums(index: int) -> _Sums | None:
        try:
            return _sums_of(source, index, channels, bit_depth)
        except UnsuitableImage:
            raise
        except CorruptImage:
            return None

    with ThreadPoolExecutor() as pool:
        for done, found in enumerate(pool.map(sums, range(len(source))), 1):
            if found is not None:
                images, pixels = images + 1, pixels + found.pixels
                values = [a + b for a, b in zip(values, found.values, strict=True)]
                squares = [a + b for a, b in zip(squares, found.squares, strict=True)]
                smallest, largest = [*map(min, smallest, found.smallest)], [*map(max, largest, found.largest)]
            if progress is not None:
                progress(done, len(source))
    if not images:
        raise DataError("no image could be read, so there are no statistics")
    mean = [value / pixels for value in values]
    variance = [square / pixels - one * one for square, one in zip(squares, mean, strict=True)]
    std = tuple(math.sqrt(value) or 1.0 for value in variance)
    return BandStatistics(
        channels, bit_depth, images, tuple(map(float, mean)), std, tuple(smallest), tuple(largest)
    )  # fmt: skip


def _sums_of(source: Source, index: int, channels: int, bit_depth: int) -> _Sums:
    stored = source.stored(index)
    bands = as_bands(source[index][0], channels) if stored is None else read_bands(stored, channels)
    flat = bands.reshape(channels, -1)
    with as_corrupt_image(source.locate(index)):
        white = white_of(bands, bit_depth)
        if bit_depth == FLOAT_DEPTH:
            scaled(bands, bit_depth)  # refuses NaN
    count = flat.shape[1]
    if bit_depth == FLOAT_DEPTH:
        flat = flat.astype(np.float64)
        means = flat.mean(1)
        values = [Fraction(value) * count for value in means.tolist()]
        around = [Fraction(value) for value in np.square(flat - means[:, None]).sum(1).tolist()]
        squares = [value * value / count + rest for value, rest in zip(values, around, strict=True)]
    else:
        whole = flat.astype(np.uint64)
        values = [Fraction(value, white) for value in whole.sum(1).tolist()]
        squares = [Fraction(value, white**2) for value in np.square(whole).sum(1).tolist()]
    ends = ([float(value) / white for value in end.tolist()] for end in (flat.min(1), flat.max(1)))
    return _Sums(count, values, squares, *ends)
