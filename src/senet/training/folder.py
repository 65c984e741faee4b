"""The names of what a run leaves in its folder."""

from __future__ import annotations

from pathlib import Path

__all__ = ["BEST", "CURVES", "JOB", "LAST", "METRICS", "STATE", "holds_a_run"]

JOB = "run.json"
"""What was asked for: data, network, recipe, how it runs."""

STATE = "state.ckpt"
"""All that a resumed run needs: weights, averages, optimiser, schedule, progress."""

LAST, BEST = "last.safetensors", "best.safetensors"
"""The network after the last epoch, and after the one with the highest validation accuracy."""

METRICS, CURVES = "metrics.csv", "curves.png"
"""One row an epoch, and its picture."""


def holds_a_run(folder: Path) -> bool:
    """Whether a training has got far enough there that beginning anew would lose something."""
    return any((folder / name).exists() for name in (STATE, LAST, BEST))
