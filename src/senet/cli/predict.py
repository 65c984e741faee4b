"""Classify image files and folders of them, or find boxes or masks in them.

  senet predict photo.jpg holiday/ --checkpoint runs/flowers --out preds.csv
  senet predict slides/            --checkpoint runs/cells   --out found/
  senet predict photo.jpg --checkpoint flowers.onnx

A detector writes pictures with boxes and COCO's JSON into --out, a segmenter masks and pictures with them. A file
that can't be read is a row with its error. The exit code is 1 if no file could be read.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli import dense
from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table
from senet.errors import SenetError

if TYPE_CHECKING:
    from senet.inference import Prediction

__all__ = ["add_arguments", "run"]

TOP = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument("paths", nargs="+", metavar="PATHS", help="image files, and folders (searched at any depth)")
    shared.add_use_options(parser)
    shared.add_runtime_option(parser)
    parser.add_argument("--top", type=int, metavar="K", help=f"classes a file (default {TOP})")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="write the rows into this CSV file instead of printing them; or boxes or masks into this folder",
    )
    parser.add_argument("--score", type=float, metavar="S", help="boxes drawn are this sure (default 0.5)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: argparse.Namespace) -> int:
    """Predict and print or write."""
    from senet.inference import predict
    from senet.tasks import CLASSIFICATION

    if options.top is not None and options.top < 1:
        raise SenetError(f"--top {options.top} must be at least 1")
    loaded = shared.load_network(options)
    if loaded.description.task != CLASSIFICATION:
        return dense.predict(options, loaded, _files(options.paths))
    if options.score is not None:
        raise SenetError("--score is for detectors; a row names the likeliest classes with their probabilities")
    if options.out is not None and not options.out.resolve().parent.is_dir():
        raise SenetError(f"--out {options.out}: there is no folder {options.out.parent}")
    paths = _files(options.paths)
    with counting("predicting") as progress:
        rows = list(
            predict(
                loaded,
                paths,
                top=options.top or TOP,
                batch_size=options.batch_size or shared.BATCH,
                precision=options.precision,
                workers=options.workers,
                progress=progress,
            )
        )
    _give(rows, options)
    return 0 if any(not row.error for row in rows) else 1


def _files(names: Sequence[str]) -> list[str]:
    """The files named, and those in the folders named; one that isn't there stays, to become a row."""
    from senet.data import find_images

    found: list[str] = []
    for name in names:
        inside = find_images(name) if Path(name).is_dir() else [name]
        if not inside:
            raise SenetError(f"{name}: no image files in this folder")
        found += inside
    return found


def _give(rows: Sequence[Prediction], options: argparse.Namespace) -> None:
    if options.out is not None:
        from senet.weights import write_atomically

        write_atomically(options.out, lambda path: _write(rows, path))
        bad = sum(bool(row.error) for row in rows)
        print(f"{len(rows)} rows in {options.out}" + (f", {bad} of them files that can't be read" if bad else ""))
    elif options.json:
        print_json([{"path": r.path, "error": r.error, "top": [{"label": c, "probability": p} for c, p in r.top]}
                    for r in rows])  # fmt: skip
    else:
        table = [[row.path, *_first(row), row.error or _others(row)] for row in rows]
        print_table(("file", "label", "probability", "then, or why not"), table, left=2)


def _first(row: Prediction) -> tuple[str, str]:
    return (row.top[0][0], f"{row.top[0][1]:.2%}") if row.top else ("", "")


def _others(row: Prediction) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in row.top[1:3])


def _write(rows: Sequence[Prediction], path: Path) -> None:
    width = max(len(row.top) for row in rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        more = [f"{what}_{k}" for k in range(2, width + 1) for what in ("label", "probability")]
        table.writerow(["path", "label", "probability", *more, "error"])
        for row in rows:
            cells = [cell for name, share in row.top for cell in (name, f"{share:.6f}")]
            padding = [""] * (max(2, 2 * width) - len(cells))
            table.writerow([row.path, *cells, *padding, row.error])
