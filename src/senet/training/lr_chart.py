"""Chart of a learning rate range test."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from senet.training.lr_finder import LearningRateRange

__all__ = ["draw_range"]

COLOUR, MARK = "#0072B2", "#D55E00"  # blue and vermillion of Okabe and Ito, distinguishable for colour-blind readers


def draw_range(found: LearningRateRange, path: Path, *, current: float, title: str = "") -> None:
    """Draw the loss over the learning rate as a PNG, written atomically.

    Args:
        found: The result of a test.
        path: The file to write.
        current: Learning rate of the recipe, which is marked too.
        title: Title of the chart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from senet.weights.files import write_atomically

    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color="#999999", linewidth=0.8, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color=COLOUR, linewidth=2, label="smoothed")
    axes.set_xscale("log")
    if found.rates[0] <= current <= found.rates[-1]:
        axes.axvline(current, color="#666666", linestyle=":", linewidth=1, label=f"recipe: {current:g}")
    if found.suggestion is not None:
        axes.axvline(
            found.suggestion, color=MARK, linestyle="--", linewidth=1, label=f"suggested: {found.suggestion:g}"
        )
        height = float(np.interp(math.log(found.suggestion), np.log(found.rates), found.smoothed))
        axes.plot([found.suggestion], [height], "o", color=MARK)
    low, high = min(found.smoothed), max(found.smoothed[: int(np.argmin(found.smoothed)) + 1])
    axes.set_ylim(low - 0.15 * (high - low + 1e-9), high + 0.6 * (high - low + 1e-9))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    axes.set_title(title, fontsize=10)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
