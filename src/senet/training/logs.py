"""Write the rows of `metrics.csv` to TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["TIMES", "TensorBoard"]

TIMES = ("seconds", "images_per_second")
"""Columns with durations, which differ between equal runs."""


class TensorBoard:
    """Writes each epoch's row at the last step of the epoch.

    A resumed run writes all rows again. Otherwise events of a killed run could be missing or duplicated.

    Args:
        folder: Folder of the event files.
        rows: Rows of the epochs so far.
    """

    def __init__(self, folder: Path, rows: Sequence[Mapping[str, float]] = ()) -> None:
        from torch.utils.tensorboard import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Write one epoch and flush."""
        for name, value in row.items():
            if name not in ("epoch", "step", *TIMES):
                self._writer.add_scalar(name.replace("_", "/", 1), value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
