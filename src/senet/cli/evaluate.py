"""Measure a trained network on labelled data.

Examples:
  senet evaluate runs/flowers --data folder:PATH
  senet evaluate --checkpoint runs/flowers --data folder:PATH --per-class
  senet evaluate flowers.onnx --data folder:PATH --runtime openvino
"""

from __future__ import annotations

import argparse

from senet.cli import dense
from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_split, print_table, span

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet evaluate CHECKPOINT --data DATA [--split SPLIT] [--per-class] [--json]
                      [options, see below]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    shared.add_use_options(parser, positional=True, exported=True)
    shared.add_data_options(parser, required=True)
    shared.add_split_option(parser, "evaluate")
    parser.add_argument("--per-class", action="store_true", help="print the metrics of each class, too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Evaluate and print."""
    from senet.inference import choose_split, evaluate
    from senet.tasks import CLASSIFICATION

    loaded = shared.load_network(options)
    if loaded.metadata.task != CLASSIFICATION:
        return dense.evaluate(options, loaded)
    record = loaded.metadata.data
    data = shared.data_to_evaluate(options, record)
    chosen = choose_split(data, record, options.split)
    with counting("evaluating") as progress:
        result = evaluate(
            loaded,
            chosen.source,
            data.classes,
            batch_size=options.batch_size or shared.BATCH,
            precision=options.precision,
            workers=options.workers,
            progress=progress,
        )
    name = loaded.metadata.model
    if options.json:
        what = {"checkpoint": options.checkpoint, "model": name, "data": data.name}
        print_json(what | chosen.to_dict() | result.to_dict())
        return 0
    top5 = "-" if result.top5 is None else f"{result.top5:.2%}"
    rows = [[f"{result.images:,}", f"{result.top1:.2%}", top5, f"{result.loss:.4f}", f"{result.seconds:.1f}"]]
    spans = [span(result.intervals.get("top1")), span(result.intervals.get("top5")),
             span(result.intervals.get("loss"), ".4f")]  # fmt: skip
    rows.append(["95 % of images", *spans, ""])
    print_table(("images", "top-1", "top-5", "loss", "seconds"), rows, title=f"{name} on {data.name}", left=0)
    print_split(chosen)
    without = [name for name, share in result.per_class.items() if share is None]
    if without:
        print(f"no images of {len(without)} of {len(result.per_class)} classes: {', '.join(without[:5])}"
              f"{', ...' if len(without) > 5 else ''}")  # fmt: skip
    if options.per_class:
        known = {c: share for c, share in result.per_class.items() if share is not None}
        worst_first = sorted(known.items(), key=lambda item: item[1])
        print_table(("class", "top-1"), [[c, f"{share:.2%}"] for c, share in worst_first])
    return 0
