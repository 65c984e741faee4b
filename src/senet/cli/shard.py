"""Write a data set as a few large files, for data that is larger than a disk or lies behind a network.

  senet shard folder:PATH --out DIR
  senet train --data shards:DIR --model se_resnet50

Leaves in --out: tar archives of images (train-00000.tar, ...), and shards.json and .npz tables that say where in them
each image is. Files are copied byte for byte, in random order; every image is decoded once, and a corrupt one left out.
Stopped in between, the same command goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table
from senet.console import plain_console, teller
from senet.errors import SenetError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument("data", metavar="DATA", help="folder:PATH, or any other data that --data takes elsewhere")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="is made if need be")
    parser.add_argument("--shard-mb", type=float, default=256, metavar="MB", help="size of a shard (default 256)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of the images")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that read and check images")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    shared.add_split_options(parser.add_argument_group("data"))


def run(options: argparse.Namespace) -> int:
    """Write and tell."""
    from dataclasses import asdict

    from senet.data.sharding import write_shards

    if not options.shard_mb > 0:
        raise SenetError(f"--shard-mb {options.shard_mb:g} must be positive")
    data, tell = shared.data_options(options).open(), teller(plain_console())
    with counting("writing shards") as progress:
        made = write_shards(
            data, options.out, shard_mb=options.shard_mb, seed=options.seed, workers=options.workers, progress=progress,
            report=lambda *it: tell(f"left out {': '.join(it)}"),
        )  # fmt: skip
    if options.json:
        print_json({"folder": str(options.out), **asdict(made)})
        return 0
    rows = [[part, f"{made.images[part]:,}", f"{made.shards[part]:,}"] for part in made.images]
    print_table(("part", "images", "shards"), rows, title=f"{data.name} in {options.out}, {made.megabytes:,.1f} MB")
    if made.corrupt:
        print(f"{len(made.corrupt)} corrupt image{'s' * (len(made.corrupt) != 1)} left out")
    if made.reused:
        print(f"{made.reused} shard{'s' * (made.reused != 1)} of an earlier call kept")
    print(f"train with: senet train --data shards:{options.out} --model M")
    return 0
