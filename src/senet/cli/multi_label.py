"""`senet evaluate` and `senet predict` for multi-label classifiers."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli.dense import percent
from senet.cli.output import print_table, span
from senet.spreadsheet import text_cell

if TYPE_CHECKING:
    from senet.inference import MultiLabelEvaluation, Prediction

__all__ = ["print_classes", "print_rows", "print_summary", "row_of", "write_rows"]


def print_summary(result: MultiLabelEvaluation, *, title: str) -> None:
    """Print the metrics over all images."""
    head = ("images", "mAP", "micro F1", "macro F1", "loss", "seconds")
    shares = [f"{share:.2%}" for share in (result.map, result.micro_f1, result.macro_f1)]
    row = [f"{result.images:,}", *shares, f"{result.loss:.4f}", f"{result.seconds:.1f}"]
    spans = [span(result.intervals.get(name)) for name in ("map", "micro_f1", "macro_f1")]
    table = [row, ["95 % of images", *spans, span(result.intervals.get("loss"), ".4f"), ""]]
    print_table(head, table, title=title, left=0)


def print_classes(result: MultiLabelEvaluation) -> None:
    """Print the metrics of each label with images, the lowest average precision first."""
    found = [(name, of) for name, of in result.classes.items() if of.images]
    rows = [
        [name, f"{of.images:,}", *map(percent, (of.average_precision, of.precision, of.recall, of.f1)),
         f"{of.threshold:.4f}"]
        for name, of in sorted(found, key=lambda item: item[1].average_precision or 0)
    ]  # fmt: skip
    print_table(("label", "images", "AP", "precision", "recall", "F1", "threshold"), rows)


def row_of(row: Prediction) -> list[str]:
    """Return a file's row of the printed table."""
    return [row.path, row.error or ", ".join(f"{name} {share:.1%}" for name, share in row.top) or "no label"]


def print_rows(rows: Iterator[Prediction]) -> None:
    """Print one JSON list with an element for each file."""
    from senet.weights.strict_json import dump

    for number, row in enumerate(rows):
        labels = [{"label": name, "probability": share} for name, share in row.top]
        element = dump({"path": row.path, "error": row.error, "labels": labels}, indent=None).rstrip()
        sys.stdout.write(("[\n  " if number == 0 else ",\n  ") + element)
    sys.stdout.write("\n]\n")


def write_rows(rows: Iterator[Prediction], path: Path) -> None:
    """Write the CSV table row by row. A cell has the labels, or their probabilities, with semicolons between them."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "labels", "probabilities", "error"])
        for row in rows:
            names, shares = (";".join(cells) for cells in ([n for n, _ in row.top], [f"{p:.6f}" for _, p in row.top]))
            table.writerow([text_cell(row.path), text_cell(names), shares, text_cell(row.error)])
