"""TensorBoard's copy of `metrics.csv`, an epoch at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["TIMES", "TensorBoard"]

TIMES = ("seconds", "images_per_second")
"""Columns that say how long something took: no two runs have them equal."""


class TensorBoard:
    """Writes each epoch's row, at the step with which the epoch ended.

    A run that goes on writes all rows anew: events that a killed run had not flushed, or had written before it was
    thrown back to an earlier state, would otherwise be missing or there twice.

    Args:
        folder: Of the event files.
        rows: The epochs so far.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, float]] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """One epoch, flushed."""
        for name, value in row.items():
            if name not in ("epoch", "step", *TIMES):
                self._writer.add_scalar(name.replace("_", "/", 1), value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
