"""Classify images, or find boxes or masks in them.

A classifier prints a row per image, or writes the rows to a CSV file. A multi-label classifier's row has all labels
whose probability is at least the label's threshold, also none. A detector writes images with boxes and a JSON
file in COCO's format into the folder --out. A segmentation network writes masks and images with masks there.

The row of an unreadable image shows the error. The exit code is 1 if no image could be read.

Examples:
  senet predict photo.jpg holiday/ --checkpoint runs/flowers --out predictions.csv
  senet predict slides/ --checkpoint runs/cells --out found/
  senet predict photo.jpg --checkpoint flowers.onnx --topk 3
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import dense, multi_label
from senet.cli import options as shared
from senet.cli.output import counting, print_table
from senet.errors import SenetError
from senet.spreadsheet import text_cell

if TYPE_CHECKING:
    from senet.inference import Prediction

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet predict PATH [PATH ...] --checkpoint CHECKPOINT [--out PATH] [--topk N]
                     [--json] [options, see below]"""

TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="image files, folders (searched at any depth), and lists csv:FILE"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="CSV file for the rows of a classifier, or folder for boxes or masks (default: print the rows)",
    )
    parser.add_argument("--topk", type=int, metavar="N", help=f"classes per image (default: {TOP})")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        help="smallest score of a drawn box (default: 0.5), or smallest probability of each label (default: the "
        "checkpoint's own for each label)",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO's JSON (instances or image_info) of these images: boxes get its image and category numbers "
        "(default: images are numbered from 1)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    shared.add_use_options(parser, positional=False, exported=True)


def run(options: argparse.Namespace) -> int:
    """Predict and print or write."""
    from senet.inference import predict, predict_labels
    from senet.tasks import MULTI_LABEL

    if options.topk is not None and options.topk < 1:
        raise SenetError(f"--topk {options.topk} must be at least 1")
    loaded = shared.load_network(options)
    if not loaded.metadata.is_classifier:
        return dense.predict(options, loaded, _files(options.paths))
    of_labels = loaded.metadata.task == MULTI_LABEL
    if of_labels and options.topk is not None:
        raise SenetError("--topk is for one class an image; a row has the labels from --score-threshold on")
    if not of_labels and options.score_threshold is not None:
        raise SenetError(
            "--score-threshold is for detectors and multi-label classifiers; a row names the likeliest classes with "
            "their probabilities"
        )
    if options.annotations is not None:
        raise SenetError("--annotations is for detectors, whose boxes get COCO's numbers")
    if options.out is not None:
        _check_out(options)
    paths = _files(options.paths)
    if options.out is not None and options.out.exists() and any(_same(options.out, path) for path in paths):
        raise SenetError(f"--out {options.out} is one of the images; give the CSV file another name")
    count = _Count()
    # A bar would overwrite rows that are printed on the same terminal.
    bar = nullcontext(None) if options.json and sys.stdout.isatty() else counting("predicting")
    with bar as progress:
        settings: dict[str, Any] = {
            "batch_size": options.batch_size or shared.BATCH,
            "precision": options.precision,
            "workers": options.workers,
            "progress": progress,
        }
        top = min(options.topk or TOP, len(loaded.classes))
        if of_labels:
            least = options.score_threshold
            thresholds = None if least is None else [least] * len(loaded.classes)
            rows = predict_labels(loaded, paths, thresholds=thresholds, **settings)
        else:
            rows = predict(loaded, paths, top=top, **settings)
        report = _give(count.over(rows), top, options, of_labels=of_labels)
    report(count)
    return 0 if count.unread < count.rows else 1


def _give(
    rows: Iterator[Prediction], top: int, options: argparse.Namespace, *, of_labels: bool
) -> Callable[[_Count], None]:
    """Write or print the rows as they arrive. Returns the lines to print after the progress bar."""
    if options.out is not None:
        from senet.weights.files import write_atomically

        write_atomically(
            options.out, lambda path: multi_label.write_rows(rows, path) if of_labels else _write(rows, top, path)
        )
        return lambda count: print(f"{count.rows} rows in {options.out}{count.about_unread()}")
    if options.json:
        (multi_label.print_rows if of_labels else _print_rows)(rows)
        return lambda _: None
    if of_labels:
        labels = list(map(multi_label.row_of, rows))
        return lambda _: print_table(("file", "labels, or why not"), labels, left=2)
    table = [[row.path, *_first(row), row.error or _others(row)] for row in rows]
    return lambda _: print_table(("file", "label", "probability", "then, or why not"), table, left=2)


def _check_out(options: argparse.Namespace) -> None:
    """Raise a `SenetError` if no table can be written to this path."""
    out: Path = options.out
    if options.json:
        raise SenetError("--json prints the rows and --out writes them as CSV; use one of them")
    if not out.resolve().parent.is_dir():
        raise SenetError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise SenetError(f"--out {out} is a folder; the rows of a classifier go into a CSV file")
    if out.exists() and not out.is_file():
        raise SenetError(f"--out {out} is no regular file and would be replaced; leave out --out to print")


def _same(out: Path, path: str) -> bool:
    return Path(path).exists() and out.samefile(path)


def _files(names: Sequence[str]) -> list[str]:
    """Return the given files, and the files of given folders and lists. A missing file gets a row with an error."""
    from senet.data import find_images
    from senet.data.csv_source import listed_paths

    found: list[str] = []
    for name in names:
        if name.startswith("csv:"):
            found += listed_paths(name)
            continue
        inside = find_images(name) if Path(name).is_dir() else [name]
        if not inside:
            raise SenetError(f"{name}: no image files in this folder")
        found += inside
    return found


class _Count:
    """Count rows while they pass."""

    def __init__(self) -> None:
        self.rows = self.unread = 0

    def over(self, rows: Iterator[Prediction]) -> Iterator[Prediction]:
        for row in rows:
            self.rows += 1
            self.unread += bool(row.error)
            yield row

    def about_unread(self) -> str:
        return f", {self.unread} of them files that can't be read" if self.unread else ""


def _print_rows(rows: Iterator[Prediction]) -> None:
    """Print one JSON list with an element for each row."""
    from senet.weights.strict_json import dump

    for number, r in enumerate(rows):
        top = [{"label": name, "probability": share} for name, share in r.top]
        element = dump({"path": r.path, "error": r.error, "top": top}, indent=None).rstrip()
        sys.stdout.write(("[\n  " if number == 0 else ",\n  ") + element)
    sys.stdout.write("\n]\n")


def _first(row: Prediction) -> tuple[str, str]:
    return (row.top[0][0], f"{row.top[0][1]:.2%}") if row.top else ("", "")


def _others(row: Prediction) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in row.top[1:3])


def _write(rows: Iterator[Prediction], top: int, path: Path) -> None:
    """Write the CSV table row by row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        more = [f"{what}_{k}" for k in range(2, top + 1) for what in ("label", "probability")]
        table.writerow(["path", "label", "probability", *more, "error"])
        for row in rows:
            cells = [cell for name, share in row.top for cell in (text_cell(name), f"{share:.6f}")]
            table.writerow([text_cell(row.path), *cells, *[""] * (2 * top - len(cells)), text_cell(row.error)])
