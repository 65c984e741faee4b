"""The choice of channels, bit depth and statistics of a data set's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from senet.errors import DataError, shown
from senet.preprocessing import FLOAT_DEPTH, Preprocessing

if TYPE_CHECKING:
    from senet.data.sources import Data

__all__ = ["AUTO", "ChannelOptions", "form_counts", "with_channels"]

AUTO: Final = "auto"
"""Computes the statistics from the training images."""


@dataclass(frozen=True)
class ChannelOptions:
    """Channels, bit depth and statistics that replace those of a network's preprocessing.

    Attributes:
        channels: Number of channels, or None for the network's.
        bit_depth: As `Preprocessing.bit_depth`, or None for the network's.
        mean: Mean of each channel with white at 1, or empty for the network's.
        std: Standard deviation of each channel, or empty for the network's.
    """

    channels: int | None = None
    bit_depth: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def apply(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return a network's preprocessing with these channels.

        Raises:
            SenetError: They contradict each other.
        """
        if self.channels is not None:
            preprocessing = preprocessing.with_channels(self.channels)
        if self.bit_depth is not None:
            preprocessing = replace(preprocessing, bit_depth=self.bit_depth)
        return preprocessing.with_statistics(self.mean, self.std) if self.mean else preprocessing

    @property
    def statistics(self) -> dict[str, list[float]] | None:
        """The statistics, JSON-ready, or None for the network's."""
        return {"mean": list(self.mean), "std": list(self.std)} if self.mean else None


def with_channels(
    data: Data,
    *,
    channels: int | None = None,
    bit_depth: int | None = None,
    statistics: str | Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Return a data set whose images are read with these channels.

    Args:
        data: A data set for classification.
        channels: Number of channels, or None for the network's.
        bit_depth: As `Preprocessing.bit_depth`, or None for the network's.
        statistics: `"auto"` computes mean and deviation from the training images. A dictionary has `mean` and `std`.
            None is `"auto"` for any channels but 3, and for floating point.
        progress: Called with the numbers of images done and in all while statistics are computed.

    Raises:
        DataError: The options contradict each other or the data.
    """
    if channels is None and bit_depth is None and statistics is None:
        return data
    given = next(
        f"--{name} {value}"
        for name, value in (("channels", channels), ("bit-depth", bit_depth), ("statistics", statistics))
        if value is not None
    )
    if data.task != "classification":
        raise DataError(f"{given} is for classification; {data.name} is for {data.task}, whose images are 8-bit RGB")
    if data.white_level is not None:
        raise DataError(
            f"--white-level is for 16-bit grey that becomes 8 bits, and {given} takes no such images; "
            "use --bit-depth (12 for a white of 4095)"
        )
    if statistics is None and (channels not in (None, 3) or bit_depth == FLOAT_DEPTH):
        statistics = AUTO
    if statistics == AUTO:
        if channels is None:
            raise DataError("statistics are computed for a number of channels; add --channels N")
        from senet.data.band_statistics import band_statistics

        found = band_statistics(data.train, channels=channels, bit_depth=bit_depth or 8, progress=progress)
        options = ChannelOptions(channels, bit_depth, found.mean, found.std)
    else:
        options = ChannelOptions(channels, bit_depth, *_statistics(statistics))
    return replace(data, channels=options)


def _statistics(given: str | Mapping[str, Any] | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if given is None:
        return (), ()
    mean, std = (given.get(key) for key in ("mean", "std")) if isinstance(given, Mapping) else ((), ())
    if not _numbers(mean) or not _numbers(std):
        raise DataError(f'statistics={shown(given)} must be auto, or have "mean" and "std", a number for each channel')
    return tuple(map(float, mean)), tuple(map(float, std))


def _numbers(values: object) -> TypeGuard[Sequence[float]]:
    return bool(values) and isinstance(values, Sequence) and all(type(value) in (int, float) for value in values)


def form_counts(forms: Mapping[str, int]) -> str:
    """Return `312 files of 1 channel, 16 bit; 3 of 3 channels, 8 bit`, the most common form first."""
    (form, count), *others = sorted(forms.items(), key=lambda item: -item[1])
    parts = [f"{count:,} file{'s' * (count != 1)} of {form}", *(f"{n:,} of {form}" for form, n in others)]
    return "; ".join(parts)
