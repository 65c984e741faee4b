"""Draw docs/assets/gates.png: the gates of a trained network by class, from docs/sample_inspection/report.json.

python docs/make_gates.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
REPORT, FIGURE = DOCS / "sample_inspection" / "report.json", DOCS / "assets" / "gates.png"

BLOCKS = {
    "stages.2.0": "first block",
    "stages.4.0": "seventh block: differs by class",
    "stages.4.2": "last block: nearly constant",
}
"""Blocks to draw, in words."""

ORDER = ("airplane", "ship", "automobile", "truck", "bird", "cat", "dog", "deer", "horse", "frog")
"""Classes, related ones beside each other."""

LARGEST = 0.08
"""Deviation at which the colours saturate."""

COLOURS = LinearSegmentedColormap.from_list("gates", ["#2c3e9e", "#8fa3dd", "#f7f7f7", "#f4a582", "#c8481f"])


def main() -> None:
    """Draw one panel for each block: classes down, channels across, colour the gate less its channel's mean."""
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    classes = [entry["name"] for entry in report["classes"]]
    rows = [classes.index(name) for name in ORDER]
    figure = Figure(figsize=(9.6, 3.1), dpi=150, layout="constrained")
    widths = [len(report["curves"][f"{block}.se"]["mean"]) for block in BLOCKS]
    axes = figure.subplots(1, len(BLOCKS), sharey=True, width_ratios=[max(width, 26) for width in widths])
    for axis, (block, words) in zip(axes, BLOCKS.items(), strict=True):
        gates = by_class(report["curves"][f"{block}.se"], len(classes))[rows]
        deviations = gates - gates.mean(axis=0)
        order = np.argsort(deviations[:4].mean(axis=0))  # channels that vehicles raise come last
        image = axis.imshow(deviations[:, order], cmap=COLOURS, vmin=-LARGEST, vmax=LARGEST, aspect="auto")
        axis.set_title(words, fontsize=9.5)
        axis.set_xlabel(f"{gates.shape[1]} channels", fontsize=8.5)
        axis.set_xticks([])
        axis.tick_params(length=0, labelsize=8.5)
        axis.spines[:].set_visible(False)
    axes[0].set_yticks(range(len(ORDER)), ORDER)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.01, ticks=[-LARGEST, 0, LARGEST])
    bar.ax.set_yticklabels([f"\N{MINUS SIGN}{LARGEST}", "mean", f"+{LARGEST}"], fontsize=8.5)
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, metadata={"Software": None})


def by_class(curve: dict, classes: int) -> np.ndarray:
    """Mean gates of a block, (classes, channels)."""
    assert curve["classes"] == list(range(classes))
    return np.array(curve["class_mean"], dtype=float)


if __name__ == "__main__":
    main()
