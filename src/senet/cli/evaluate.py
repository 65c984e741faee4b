"""Measure a trained network on a labelled data set.

senet evaluate --checkpoint runs/flowers --data folder:PATH
senet evaluate --checkpoint flowers.onnx --data folder:PATH --runtime openvino
"""

from __future__ import annotations

import argparse

from senet.cli import dense
from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    shared.add_use_options(parser)
    shared.add_runtime_option(parser)
    shared.add_data_options(parser, required=True)
    parser.add_argument(
        "--split", choices=("train", "val", "test", "all"), help="part of the data (default: test, else val)"
    )
    parser.add_argument("--per-class", action="store_true", help="also each class's figures")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Evaluate and print."""
    from senet.inference import evaluate
    from senet.tasks import CLASSIFICATION

    loaded = shared.load_network(options)
    if loaded.description.task != CLASSIFICATION:
        return dense.evaluate(options, loaded)
    data = shared.data_options(options).open()
    split = options.split or ("test" if data.test is not None else "val")
    with counting("evaluating") as progress:
        result = evaluate(
            loaded,
            data.part(split),
            data.classes,
            batch_size=options.batch_size or shared.BATCH,
            precision=options.precision,
            workers=options.workers,
            progress=progress,
        )
    name = loaded.description.model
    if options.json:
        what = {"checkpoint": options.checkpoint, "model": name, "data": data.name, "split": split}
        print_json(what | result.to_dict())
        return 0
    top5 = "-" if result.top5 is None else f"{result.top5:.2%}"
    rows = [[f"{result.images:,}", f"{result.top1:.2%}", top5, f"{result.loss:.4f}", f"{result.seconds:.1f}"]]
    print_table(("images", "top-1", "top-5", "loss", "seconds"), rows, title=f"{name} on {data.name}, {split}", left=0)
    if options.per_class:
        known = {c: share for c, share in result.per_class.items() if share is not None}
        worst_first = sorted(known.items(), key=lambda item: item[1])
        print_table(("class", "top-1"), [[c, f"{share:.2%}"] for c, share in worst_first])
    return 0
