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
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import dense, image_options, multi_label
from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_split, print_table, print_unreadable, span

if TYPE_CHECKING:
    from senet.inference import Evaluation

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
    from senet.inference import choose_split, evaluate, evaluate_labels
    from senet.reports import check_report, report_classification, report_multi_label
    from senet.tasks import MULTI_LABEL

    if options.report is not None:
        check_report(options.report)
    loaded = image_options.load_network(options)
    if not loaded.metadata.is_classifier:
        return dense.evaluate(options, loaded)
    of_labels = loaded.metadata.task == MULTI_LABEL
    measure: Any = evaluate_labels if of_labels else evaluate
    report: Any = report_multi_label if of_labels else report_classification
    record = loaded.metadata.data
    data = shared.data_to_evaluate(options, record)
    shared.check_task(data, loaded, options)
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
            result = measure(loaded, chosen.source, data.classes, progress=progress, **settings)
            document = about | result.to_dict()
        else:
            result, document = report(
                options.report, loaded, chosen.source, data.classes, about=about, progress=progress, **settings
            )
    if options.json:
        print_json(document)
        return 0
    printing: Any = multi_label if of_labels else sys.modules[__name__]
    printing.print_summary(result, title=f"{name} on {data.name}{image_options.in_words(options)}")
    print_split(chosen)
    print_unreadable(result.unreadable)
    without = [name for name, found in result.classes.items() if not found.images]
    if without:
        what = "labels, left out of mAP" if of_labels else "classes"
        print(f"no images of {len(without)} of {len(result.classes)} {what}: {', '.join(without[:5])}"
              f"{', ...' if len(without) > 5 else ''}")  # fmt: skip
    if options.per_class:
        printing.print_classes(result)
    if options.report is not None:
        print(f"open {options.report / 'index.html'}")
    return 0


def print_summary(result: Evaluation, *, title: str) -> None:
    """Print the metrics over all images."""
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
        title=title,
        left=0,
    )


def print_classes(result: Evaluation) -> None:
    """Print the metrics of each class, the lowest recall first."""
    worst_first = sorted(
        ((name, found) for name, found in result.classes.items() if found.images),
        key=lambda item: item[1].recall or 0,
    )
    head = ("class", "images", "precision", "recall", "F1")
    print_table(
        head,
        [[name, f"{c.images:,}", *map(dense.percent, (c.precision, c.recall, c.f1))] for name, c in worst_first],
    )
