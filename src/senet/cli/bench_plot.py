"""Chart of a benchmark: images per second, with a panel for each batch size and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from senet.deploy.bench import Row

__all__ = ["draw"]

FIRST, OTHER = "#0072B2", "#999999"  # blue and grey differ for colour-blind readers, and in print


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw bars as a PNG, written atomically.

    Args:
        rows: The measured rows.
        path: The file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from senet.weights.files import write_atomically

    settings = list(dict.fromkeys((row.batch, row.threads) for row in rows))
    lines = len(rows) // len(settings)
    figure = Figure(figsize=(9, (0.8 + 0.42 * lines) * len(settings)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (batch, threads) in zip(figure.subplots(len(settings), 1, squeeze=False)[:, 0], settings, strict=True):
        shown = [row for row in rows if (row.batch, row.threads) == (batch, threads)]
        names = [f"{row.network}\n{row.runtime}" for row in shown]
        bars = axes.barh(
            range(len(shown)),
            [row.images_per_second for row in shown],
            color=[FIRST if number == 0 else OTHER for number in range(len(shown))],
            height=0.7,
        )
        labels = [f" {row.ms:.1f} ms, {row.ratio:.2f} x the first's time" for row in shown]
        axes.bar_label(bars, labels, fontsize=8)
        axes.set_yticks(range(len(shown)), names, fontsize=8)
        axes.invert_yaxis()
        axes.margins(x=0.35)
        axes.set_xlim(left=0)
        axes.set_title(f"batch {batch}, {threads} thread{'s' * (threads > 1)}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("images a second")
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
