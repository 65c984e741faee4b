"""The files of a report."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from senet.pages import assemble, check_report_folder, in_script, report_folder
from senet.spreadsheet import text_cell
from senet.weights.strict_json import dump

__all__ = ["check_report", "confusion_cells", "new_report", "write_confusion", "write_document", "write_rows"]

KIND: Final = "senet evaluation"
NAMES: Final = ("index.html", "report.json", "classes.csv", "predictions.csv", "images.csv", "confusion.csv",
                "confusion.png")  # fmt: skip

MOST_LABELS: Final = 40
"""Largest number of classes that a picture of a confusion matrix names."""


def check_report(folder: Path) -> None:
    """Raise a `SenetError` unless a report can be written into a folder: a missing one, or an earlier report."""
    check_report_folder(folder, KIND, NAMES)


@contextmanager
def new_report(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes the report's at the end of the block."""
    with report_folder(folder, KIND, NAMES) as temporary:
        yield temporary


def write_document(folder: Path, document: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    """Write `report.json` and the page.

    Args:
        folder: The report's folder.
        document: The numbers.
        shown: Further parts of the page, such as thumbnails. They replace parts of the same name.
    """
    (folder / "report.json").write_text(dump({"kind": KIND} | dict(document), indent=1), encoding="utf-8")
    template, style, script = (_part(f"page.{end}") for end in ("html", "css", "js"))
    data = in_script(dump(dict(document) | dict(shown), indent=None))
    (folder / "index.html").write_text(assemble(template, DATA=data, STYLE=style, SCRIPT=script), encoding="utf-8")


def _part(name: str) -> str:
    return (files("senet.reports") / "page" / name).read_text(encoding="utf-8")


def write_rows(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file. Text is escaped for spreadsheets, None is empty, floats have six digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(map(_cell, head))
        lines.writerows(map(_cell, row) for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return text_cell(value)
    return f"{value:.6g}" if isinstance(value, float) else value


def confusion_cells(confusion: np.ndarray) -> list[list[int]]:
    """Return (true class, predicted class, count) of each cell that isn't 0."""
    true, predicted = np.nonzero(confusion)
    return np.stack([true, predicted, confusion[true, predicted]], 1).tolist()


def write_confusion(folder: Path, confusion: np.ndarray, classes: Sequence[str], *, counted: str) -> None:
    """Write a confusion matrix as a table and as a picture, whose rows are fractions of the true class.

    Args:
        folder: The report's folder.
        confusion: (true class, predicted class) counts.
        classes: Names of the classes.
        counted: Name of the counted things.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = ((name, *row) for name, row in zip(classes, confusion.tolist(), strict=True))
    write_rows(folder / "confusion.csv", ("truth / predicted", *classes), rows)
    sums = confusion.sum(1, keepdims=True)
    shares = np.divide(confusion, sums, out=np.zeros(confusion.shape), where=sums > 0)
    edge = min(14.0, 3.0 + 0.28 * len(classes))
    figure = Figure(figsize=(edge + 1.2, edge), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if len(classes) <= MOST_LABELS:
        names = [_label(name) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(classes)), names, fontsize=8, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    figure.colorbar(image, ax=axes, fraction=0.046, label=f"fraction of the true class ({counted})")
    figure.savefig(folder / "confusion.png", dpi=120)


def _label(name: str) -> str:
    short = name if len(name) <= 24 else f"{name[:23]}…"
    return short.encode("utf-8", "backslashreplace").decode()
