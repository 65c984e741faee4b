"""The result of a training, and `result.json`, which holds it once the training has ended."""

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
"""Keys of every row, whatever was trained."""


@dataclass(frozen=True)
class Outcome:
    """The result of a training.

    Attributes:
        rows: One an epoch, as in `metrics.csv`. Of a run whose training states are gone: the last one alone.
        best: The row of the highest validation score (for classification, top-1 accuracy).
        seconds: Wall clock of this call.
        broken: How many corrupt images were skipped, in words; empty if none.
    """

    rows: list[Row]
    best: Row
    seconds: float
    broken: str


def best_row(rows: Sequence[Row], score: str) -> Row | None:
    """Return the row with the highest validation score, the first of equals.

    An epoch whose validation gave a score or a loss that is not finite is never the best.

    Args:
        rows: One an epoch.
        score: Key of the score, as `top1`.

    Returns:
        None if no epoch has a finite score.
    """
    finite = [row for row in rows if _is_finite(row, f"val_{score}") and _is_finite(row, "val_loss")]
    return max(finite, key=lambda row: row[f"val_{score}"], default=None)


def _is_finite(row: Mapping[str, float], key: str) -> bool:
    return math.isfinite(row.get(key, 0.0))


def outcome_of(rows: list[Row], score: str, *, folder: Path, seconds: float = 0.0, broken: str = "") -> Outcome:
    """Return the result of a training that has ended.

    Raises:
        SenetError: No epoch has a finite validation score.
    """
    best = best_row(rows, score)
    if best is None:
        raise SenetError(
            f"{folder}: no epoch has a finite validation score ({score}), so there is no best network; "
            f"{LAST} holds the last one"
        )
    return Outcome(rows, best, seconds, broken)


def write_outcome(folder: Path, outcome: Outcome, *, epochs: int) -> None:
    """Write `result.json`.

    Args:
        folder: The run's.
        outcome: The result.
        epochs: Number of epochs that were asked for.

    Raises:
        SenetError: The folder can't be written to.
    """
    last = outcome.rows[-1]
    write_json(folder, RESULT, {"epochs": epochs, "best": outcome.best, "last": last, "broken": outcome.broken})


def read_outcome(folder: Path, *, epochs: int) -> Outcome | None:
    """Read `result.json`; None if there is none of a training of so many epochs."""
    try:
        found = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        if found["epochs"] != epochs:
            return None
        last, best = (_row(found[name]) for name in ("last", "best"))
        return Outcome([last], best, 0.0, str(found["broken"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, or written by hand: the training states decide


def _row(values: Mapping[str, float | None]) -> Row:
    """One of the rows, checked.

    Raises:
        KeyError: It isn't whole.
        TypeError: A value is no number.
    """
    row = {key: math.nan if value is None else value for key, value in values.items()}
    for value in (*row.values(), *(row[key] for key in ALWAYS)):
        if not isinstance(value, (int, float)):
            raise TypeError(f"{value!r} is no number")
    return row
