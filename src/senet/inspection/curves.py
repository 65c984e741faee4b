"""Gates of each channel and class (the paper's Figures 6 and 7), in bounded size, with three decimals."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from torch import Tensor

from senet.gates.statistics import GateStatistics
from senet.inspection.sampling import evenly

__all__ = ["Curves", "curves_of", "packed"]

MOST_CLASSES: Final = 1000
MOST_CHANNELS: Final = 128
"""Largest number of channels in a chart. The paper shows 50, also evenly spaced."""
MOST_PAIRS: Final = 2_500_000
"""Largest number of pairs of class and channel over all blocks. Each takes two to three bytes of the page."""
FEWEST_CHANNELS: Final = 16


@dataclass(frozen=True)
class Curves:
    """One block's gates. All numbers are whole thousandths.

    Attributes:
        channels: Channel numbers, evenly spaced.
        classes: Class numbers.
        mean: (S,) mean over all images.
        spread: (S,) standard deviation over all images.
        class_mean: (K, S) mean within each class.
        class_spread: (K, S) standard deviation within each class.
    """

    channels: list[int]
    classes: list[int]
    mean: np.ndarray
    spread: np.ndarray
    class_mean: np.ndarray
    class_spread: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form, in units instead of thousandths."""
        arrays = ("mean", "spread", "class_mean", "class_spread")
        return {"channels": self.channels, "classes": self.classes} | {
            name: np.round(getattr(self, name) / 1000, 3).tolist() for name in arrays
        }


def curves_of(statistics: Mapping[str, GateStatistics], first: Sequence[int]) -> dict[str, Curves]:
    """Return the curves of all blocks. The `first` classes are always included."""
    some = next(iter(statistics.values()))
    seen = [k for k in range(len(some.counts)) if some.counts[k] > 0]
    room = MOST_CLASSES - len(set(first) & set(seen))
    others = [k for k in seen if k not in first]
    classes = sorted([k for k in first if k in seen] + [others[i] for i in evenly(len(others), room)])
    most = min(MOST_CHANNELS, max(FEWEST_CHANNELS, MOST_PAIRS // (len(classes) * len(statistics))))
    found = {}
    for path, s in statistics.items():
        channels = evenly(s.channels, most)
        found[path] = Curves(
            channels=channels,
            classes=classes,
            mean=_thousandths(s.mean[channels]),
            spread=_thousandths(s.variance.sqrt()[channels]),
            class_mean=_thousandths(s.class_mean[classes][:, channels]),
            class_spread=_thousandths(s.class_spread[classes][:, channels]),
        )
    return found


def _thousandths(values: Tensor) -> np.ndarray:
    return np.clip(np.round(1000 * values.numpy()), -32768, 32767).astype(np.int32)


MOST_PLAIN = 400_000
"""Bytes of curves that a page stores uncompressed."""


def packed(curves: Mapping[str, Curves]) -> tuple[str, bool]:
    """Pack all class curves for a page in base64, with their encoding: plain bytes or zlib.

    For each block, the classes' means less the mean over all (K, S) come first, then their spreads (K, S), as 16-bit
    numbers. All low bytes precede all high bytes. The high bytes are nearly equal and compress well.
    """
    rows = [part.ravel() for c in curves.values() for part in (c.class_mean - c.mean, c.class_spread)]
    whole = np.concatenate(rows).astype("<i2")
    planes = whole.view(np.uint8).reshape(-1, 2).T.tobytes()
    plain = len(planes) <= MOST_PLAIN
    return base64.b64encode(planes if plain else zlib.compress(planes, 9)).decode(), plain
