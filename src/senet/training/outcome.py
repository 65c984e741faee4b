"""The result of a training, and its file `result.json`, written at the end."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from senet.errors import SenetError
from senet.training.folder import LAST, RESULT, write_json

__all__ = ["Outcome", "best_row", "outcome_of", "read_outcome", "write_outcome"]

Row = dict[str, float]

ALWAYS = ("epoch", "step", "lr", "seconds", "images_per_second")
"""Keys of every row, for all tasks."""


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        rows: One row per epoch, as in `metrics.csv`. Only the last one if the training states were deleted.
        best: The row with the highest validation metric (for classification, top-1 accuracy).
        seconds: Wall-clock seconds of this call.
        corrupt_images: Summary of skipped corrupt images, empty if there were none.

    Example:
        >>> from senet.training import Outcome
        >>> rows = [{"epoch": 1, "val_top1": 0.61}, {"epoch": 2, "val_top1": 0.64}]
        >>> outcome = Outcome(rows=rows, best=rows[1], seconds=12.0, corrupt_images="")
        >>> f"{outcome.best['val_top1']:.0%} in epoch {outcome.best['epoch']}"
        '64% in epoch 2'
    """

    rows: list[Row]
    best: Row
    seconds: float
    corrupt_images: str


def best_row(rows: Sequence[Row], metric: str) -> Row | None:
    """Return the row with the highest validation metric, the first of equals.

    An epoch with a non-finite metric or loss is never the best.

    Args:
        rows: One row per epoch.
        metric: Key of the metric, such as `top1`.

    Returns:
        The row, None if no epoch has a finite metric.
    """
    finite = [row for row in rows if _is_finite(row, f"val_{metric}") and _is_finite(row, "val_loss")]
    return max(finite, key=lambda row: row[f"val_{metric}"], default=None)


def _is_finite(row: Mapping[str, float], key: str) -> bool:
    return math.isfinite(row.get(key, 0.0))


def outcome_of(
    rows: list[Row], metric: str, *, folder: Path, seconds: float = 0.0, corrupt_images: str = ""
) -> Outcome:
    """Return the result of a finished training.

    Raises:
        SenetError: No epoch has a finite validation metric.
    """
    best = best_row(rows, metric)
    if best is None:
        raise SenetError(
            f"{folder}: no epoch has a finite validation metric ({metric}), so there is no best network; "
            f"{LAST} contains the last one"
        )
    return Outcome(rows, best, seconds, corrupt_images)


def write_outcome(folder: Path, outcome: Outcome, *, epochs: int) -> None:
    """Write `result.json`.

    Args:
        folder: Folder of the run.
        outcome: The result.
        epochs: Requested number of epochs.

    Raises:
        SenetError: The folder can't be written to.
    """
    last = outcome.rows[-1]
    write_json(
        folder, RESULT, {"epochs": epochs, "best": outcome.best, "last": last, "corrupt_images": outcome.corrupt_images}
    )


def read_outcome(folder: Path, *, epochs: int) -> Outcome | None:
    """Read `result.json`, None if it is missing or from another number of epochs."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        if found["epochs"] != epochs:
            return None
        last, best = (_row(found[name]) for name in ("last", "best"))
        return Outcome([last], best, 0.0, str(found["corrupt_images"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # missing or edited: the training states decide


def _row(values: Mapping[str, float | None]) -> Row:
    """Check a row.

    Raises:
        KeyError: A key is missing.
        TypeError: A value is not a number.
    """
    row = {key: math.nan if value is None else value for key, value in values.items()}
    for value in (*row.values(), *(row[key] for key in ALWAYS)):
        if not isinstance(value, (int, float)):
            raise TypeError(f"{value!r} is not a number")
    return row
