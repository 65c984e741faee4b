"""Draw loss and metric over the epochs of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from senet.tasks.task import Metric

__all__ = ["draw_curves"]

TRAIN, VAL = "#0072B2", "#D55E00"  # blue and vermillion of Okabe and Ito, distinguishable for colour-blind readers


def draw_curves(rows: Sequence[dict[str, float]], path: Path, metric: Metric, title: str = "") -> None:
    """Draw the rows of `metrics.csv` as a PNG.

    Args:
        rows: One row per finished epoch.
        path: The file to write.
        metric: Metric to draw beside the loss.
        title: Title of the chart.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, right = figure.subplots(1, 2)
    for axes, key, scale in ((loss, "loss", 1.0), (right, metric.key, 100.0)):
        for split, colour, marker in (("train", TRAIN, "o"), ("val", VAL, "s")):
            if f"{split}_{key}" not in rows[0]:
                continue  # a detector has no validation loss, and only a classifier has training accuracy
            values = [row[f"{split}_{key}"] * scale for row in rows]
            axes.plot(epochs, values, color=colour, marker=marker, markersize=3, label=split)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.set_ylabel("loss")
    right.set_ylabel(f"{metric.title}, %")
    key = f"val_{metric.key}"
    best = max(rows, key=lambda row: row[key])
    right.axhline(best[key] * 100, color=VAL, linewidth=0.8, linestyle=":")
    right.set_title(f"best {best[key]:.2%}, epoch {best['epoch']:.0f}", fontsize=9, color=VAL)
    loss.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120, format="png")
