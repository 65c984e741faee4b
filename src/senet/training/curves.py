"""A picture of a run: loss and accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["draw_curves"]

TRAIN, VAL = "#0072B2", "#D55E00"  # blue and vermillion of Okabe and Ito: told apart by colour-blind people


def draw_curves(rows: Sequence[dict[str, float]], path: Path, title: str = "") -> None:
    """Draw the rows of `metrics.csv` as a PNG.

    Args:
        rows: One a finished epoch.
        path: The file to write.
        title: Above the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    for axes, key, scale in ((loss, "loss", 1.0), (accuracy, "top1", 100.0)):
        for part, colour, marker in (("train", TRAIN, "o"), ("val", VAL, "s")):
            values = [row[f"{part}_{key}"] * scale for row in rows]
            axes.plot(epochs, values, color=colour, marker=marker, markersize=3, label=part)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    loss.set_ylabel("loss")
    accuracy.set_ylabel("top-1 accuracy, %")
    best = max(rows, key=lambda row: row["val_top1"])
    accuracy.axhline(best["val_top1"] * 100, color=VAL, linewidth=0.8, linestyle=":")
    accuracy.set_title(f"best {best['val_top1']:.2%}, epoch {best['epoch']:.0f}", fontsize=9, color=VAL)
    loss.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120, format="png")
