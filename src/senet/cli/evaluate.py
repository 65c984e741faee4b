"""Measure a trained network on labelled data.

Examples:
  senet evaluate runs/flowers --data folder:PATH
  senet evaluate --checkpoint runs/flowers --data folder:PATH --per-class
  senet evaluate runs/flowers --data folder:PATH --report report
  senet evaluate runs/flowers --data folder:PATH --size 256 --tta flip
  senet evaluate flowers.onnx --data folder:PATH --runtime openvino
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from senet.cli import dense, image_options
from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_split, print_table, print_unreadable, span

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet evaluate CHECKPOINT --data DATA [--split SPLIT] [--report DIR] [--per-class]
                      [--json] [options, see below]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    shared.add_use_options(parser, positional=True, exported=True)
    shared.add_data_options(parser, required=True)
    shared.add_split_option(parser, "evaluate")
    image_options.add_image_options(parser)
    parser.add_argument("--per-class", action="store_true", help="print the metrics of each class, too")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="folder for a page (index.html), report.json, CSV files and an image of the confusion matrix (default: "
        "none). Unreadable images are left out and listed",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Evaluate and print."""
    from senet.inference import choose_split, evaluate
    from senet.reports import check_report, report_classification
    from senet.tasks import CLASSIFICATION

    if options.report is not None:
        check_report(options.report)
    loaded = image_options.load_network(options)
    if loaded.metadata.task != CLASSIFICATION:
        return dense.evaluate(options, loaded)
    record = loaded.metadata.data
    data = shared.data_to_evaluate(options, record)
    chosen = choose_split(data, record, options.split)
    name = loaded.metadata.model
    about = {"checkpoint": options.checkpoint, "model": name, "data": data.name} | chosen.to_dict()
    about |= image_options.described(options, loaded)
    settings: dict[str, Any] = {
        "batch_size": options.batch_size or shared.BATCH,
        "precision": options.precision,
        "workers": options.workers,
        "tta": options.tta or "",
    }
    with counting("evaluating") as progress:
        if options.report is None:
            result = evaluate(loaded, chosen.source, data.classes, progress=progress, **settings)
            document = about | result.to_dict()
        else:
            result, document = report_classification(
                options.report, loaded, chosen.source, data.classes, about=about, progress=progress, **settings
            )
    if options.json:
        print_json(document)
        return 0
    top5 = "-" if result.top5 is None else f"{result.top5:.2%}"
    rows = [
        [
            f"{result.images:,}",
            f"{result.top1:.2%}",
            top5,
            f"{result.balanced_accuracy:.2%}",
            f"{result.macro_f1:.2%}",
            f"{result.loss:.4f}",
            f"{result.seconds:.1f}",
        ]
    ]
    spans = [span(result.intervals.get(name)) for name in ("top1", "top5", "balanced_accuracy", "macro_f1")]
    spans.append(span(result.intervals.get("loss"), ".4f"))
    rows.append(["95 % of images", *spans, ""])
    print_table(
        ("images", "top-1", "top-5", "balanced", "macro F1", "loss", "seconds"),
        rows,
        title=f"{name} on {data.name}{image_options.in_words(options)}",
        left=0,
    )
    print_split(chosen)
    print_unreadable(result.unreadable)
    without = [name for name, share in result.per_class.items() if share is None]
    if without:
        print(f"no images of {len(without)} of {len(result.per_class)} classes: {', '.join(without[:5])}"
              f"{', ...' if len(without) > 5 else ''}")  # fmt: skip
    if options.per_class:
        worst_first = sorted(
            ((name, found) for name, found in result.classes.items() if found.images),
            key=lambda item: item[1].recall or 0,
        )
        head = ("class", "images", "precision", "recall", "F1")
        print_table(
            head,
            [[name, f"{c.images:,}", *map(dense.percent, (c.precision, c.recall, c.f1))] for name, c in worst_first],
        )
    if options.report is not None:
        print(f"open {options.report / 'index.html'}")
    return 0
