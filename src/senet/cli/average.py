"""Average the weights of several checkpoints of one network.

The average of the last epochs of a run, or of fine-tuned runs from the same weights, is often more accurate than each
of them, at the cost of one network.

With --data, the running statistics of batch norms are recomputed on the training images, and the average is measured
on the validation images. With --soup, checkpoints are added one by one, the best first, and each that lowers the
metric is left out.

Examples:
  senet average a.safetensors b.safetensors c.safetensors --out average.safetensors
  senet average runs/seed0 runs/seed1 --data folder:PATH --out average.safetensors
  senet average runs/seed0 runs/seed1 runs/seed2 --soup --data folder:PATH --out soup.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.cli import options as shared
from senet.cli.output import counting, print_json
from senet.cli.parser import add_switch
from senet.cli.values import positive
from senet.errors import SenetError

if TYPE_CHECKING:
    from senet.tasks.task import Metric
    from senet.zoo import LoadedModel

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet average CHECKPOINT CHECKPOINT [...] --out FILE [--data DATA] [--soup]
                     [--metric NAME] [options, see below]"""

ONLY_WITH_DATA = ("soup", "recompute_statistics", "metric", "limit", "batch_size", "workers", "model", "val_fraction",
                  "folds", "fold", "group", "split_seed", "class_names", "instances", "download",
                  "data_root")  # fmt: skip
"""Options that have no effect without data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help=shared.CHECKPOINT)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write, with its .json"
    )
    shared.add_function_option(parser)
    shared.add_data_options(parser, required=False)
    shared.add_limit_option(parser, "recompute the statistics from")
    add_switch(parser, "--soup", help="leave out checkpoints that lower the metric on the validation images")
    parser.add_argument(
        "--recompute-statistics",
        action=argparse.BooleanOptionalAction,
        help="recompute the running statistics of batch norms on the training images of --data; otherwise average "
        "them, which suits few images (default: yes)",
    )
    parser.add_argument(
        "--metric", metavar="NAME", help="metric of --data, such as balanced-accuracy or macro-f1 (default: the task's)"
    )
    parser.add_argument("--batch-size", type=positive, metavar="N", help="images at a time (default: 64)")
    shared.add_workers_option(parser)
    add_switch(parser, "--json", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Average, recompute statistics, measure and write."""
    from senet.inference.soup import average_models, greedy_soup, measure, recompute_statistics
    from senet.tasks import task_named
    from senet.weights import average_checkpoints, write_checkpoint
    from senet.weights.checkpoint import read_checkpoint
    from senet.weights.repository import local_checkpoint

    paths = [local_checkpoint(path) for path in options.checkpoints]
    _check(options, paths)
    factory = shared.user_function(options)
    if options.data is None:
        tensors, metadata = average_checkpoints(paths)
        write_checkpoint(options.out, tensors, metadata)
        return _print(options, paths, None, {})
    last = read_checkpoint(paths[-1])[1]
    metric = task_named(last.task).metrics_for(options.metric or "")[0]
    data = shared.data_options(options).open(record=last.data)
    if data.task != last.task:
        raise SenetError(f"{data.name} is for {data.task}; {paths[-1]} is for {last.task}")
    settings: dict[str, Any] = {"batch_size": options.batch_size or shared.BATCH, "workers": options.workers}

    def recompute(loaded: LoadedModel) -> None:
        if options.recompute_statistics is False:
            return
        with counting("recomputing statistics") as progress:
            recompute_statistics(loaded, data, limit=options.limit, progress=progress, **settings)

    def measured(loaded: LoadedModel) -> float:
        with counting("evaluating") as progress:
            return measure(loaded, data, metric.key, progress=progress, **settings)

    if options.soup:
        lines: list[str] = []
        soup = greedy_soup(paths, measured, factory=factory, prepare=recompute, report=lines.append)
        loaded, chosen, value = soup.loaded, list(soup.chosen), soup.metric
        if not options.json:
            print(*lines, sep="\n")
    else:
        loaded, chosen = average_models(paths, factory=factory), paths
        recompute(loaded)
        value = measured(loaded)
    metadata = loaded.metadata
    if len(chosen) > 1:
        metadata = replace(metadata, metrics={metric.key: value})
    write_checkpoint(options.out, loaded.model.state_dict(), metadata)
    return _print(options, chosen, metric, {metric.key: value})


def _check(options: argparse.Namespace, paths: list[Path]) -> None:
    """Refuse impossible arguments before anything is read."""
    out: Path = options.out
    if len(paths) < 2:
        raise SenetError(f"an average needs at least two checkpoints, got {len(paths)}")
    if out.suffix != ".safetensors" or out.is_dir() or not out.resolve().parent.is_dir():
        raise SenetError(f"--out {out}: give the name of a .safetensors file in an existing folder")
    if any(path.is_file() and out.exists() and out.samefile(path) for path in paths):
        raise SenetError(f"--out {out} is one of the checkpoints; give it another name")
    if options.data is None:
        given = [name for name in ONLY_WITH_DATA if getattr(options, name) is not None]
        if given:
            raise SenetError(f"--{given[0].replace('_', '-')} needs --data")
    elif options.recompute_statistics is False and options.limit is not None:
        raise SenetError(f"--limit {options.limit} has no effect with --no-recompute-statistics")


def _print(options: argparse.Namespace, chosen: list[Path], metric: Metric | None, metrics: dict[str, float]) -> int:
    if options.json:
        print_json({"out": str(options.out), "averaged": [str(path) for path in chosen], "metrics": metrics})
        return 0
    about = f", {metric.title} {metrics[metric.key]:.2%} on the validation images" if metric else ""
    print(f"average of {len(chosen)} of {len(options.checkpoints)} checkpoints in {options.out}{about}")
    return 0
