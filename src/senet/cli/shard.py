"""Write a data set as a few large files.

Shards suit data that is larger than a disk or behind a network. The folder gets tar archives of images
(train-00000.tar, ...), and shards.json and .npz tables with the position of each image. Files are copied byte for
byte, in random order. Every image is decoded once, and unreadable ones are left out.

The same command continues where it stopped.

Examples:
  senet shard folder:PATH --out flowers-shards
  senet shard --data imagenet:PATH --out imagenet-shards --shard-mb 512
  senet train se_resnet50 --data shards:flowers-shards
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table
from senet.cli.parser import add_subject
from senet.console import line_printer, plain_console
from senet.errors import SenetError

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet shard DATA --out DIR [--shard-mb MEGABYTES] [options, see below]"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("data")
    add_subject(group, "data", help=shared.DATA)
    shared.add_split_options(group)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to, made if missing")
    parser.add_argument(
        "--shard-mb", type=float, default=256, metavar="MEGABYTES", help="size of a shard (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="SEED", help="seed of the order of the images (default: %(default)s)"
    )
    shared.add_workers_option(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Write and report."""
    from dataclasses import asdict

    from senet.data.sharding import write_shards

    if not options.shard_mb > 0:
        raise SenetError(f"--shard-mb {options.shard_mb:g} must be positive")
    data, print_line = shared.data_options(options).open(), line_printer(plain_console())
    with counting("writing shards") as progress:
        made = write_shards(
            data, options.out, shard_mb=options.shard_mb, seed=options.seed, workers=options.workers, progress=progress,
            report=lambda *it: print_line(f"left out {': '.join(it)}"),
        )  # fmt: skip
    if options.json:
        print_json({"folder": str(options.out), **asdict(made)})
        return 0
    rows = [[split, f"{made.images[split]:,}", f"{made.shards[split]:,}"] for split in made.images]
    print_table(("split", "images", "shards"), rows, title=f"{data.name} in {options.out}, {made.megabytes:,.1f} MB")
    if made.corrupt:
        print(f"{len(made.corrupt)} corrupt image{'s' * (len(made.corrupt) != 1)} left out")
    if made.reused:
        print(f"{made.reused} shard{'s' * (made.reused != 1)} of an earlier call kept")
    print(f"train with: senet train --data shards:{options.out} --model NAME")
    return 0
