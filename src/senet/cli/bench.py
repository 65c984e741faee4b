"""Measure latency and throughput of networks and exported files.

The networks run in turns, and each time is divided by the first network's time right before it. The ratio is the median
of these quotients. Networks run in PyTorch as they are and, with --runtime optimized, after `senet.optimize`. Files run
in their own runtime, or in the runtimes of --runtime. A network by name gets random weights.

Examples:
  senet bench se_resnet50 resnet50 --batch-sizes 1,8
  senet bench --model se_resnet50 resnet50 --runtime eager,optimized
  senet bench runs/flowers flowers.onnx flowers.xml --threads 1,2 --out bench.png
  senet bench flowers.onnx --runtime onnxruntime,openvino
  senet bench se_resnet50 resnet50 --device cuda --batch-sizes 1,128
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table
from senet.cli.parser import add_subject
from senet.cli.values import positives
from senet.errors import CheckpointError, SenetError

if TYPE_CHECKING:
    from senet.deploy.bench import Row

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet bench MODEL [MODEL ...] [--runtime NAME,NAME] [--batch-sizes N,N]
                   [--device DEVICE] [--threads N,N] [--out FILE]
                   [options, see below]"""


MACHINE = ("cpu", "accelerator", "date")
"""Entries of `machine()` that aren't versions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_subject(
        parser,
        "model",
        several=True,
        help="a name of `senet list`, timm:NAME, torchvision:NAME or module:function, a checkpoint or its folder, or a "
        "file of `senet export`",
    )
    parser.add_argument(
        "--factory",
        metavar="MODULE:FUNCTION",
        help="function that builds your own network, if a checkpoint is of one (default: none)",
    )
    parser.add_argument(
        "--runtime",
        metavar="NAME,NAME",
        help="eager or optimized for networks, onnxruntime, openvino or torch for files (default: eager, and the "
        "format's own)",
    )
    parser.add_argument(
        "--batch-sizes", type=positives, default=(1,), metavar="N,N", help="images at a time (default: 1)"
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="DEVICE",
        help="cpu, or an accelerator of this machine: cuda, cuda:1, mps, xpu; files run on the CPU only (default: cpu)",
    )
    parser.add_argument("--threads", type=positives, metavar="N,N", help="CPU threads (default: PyTorch's choice)")
    shared.add_size_option(parser, "the first network's own")
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="for each batch size and number of threads (default: %(default)g)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="chart of the throughput, a .png file (default: none)")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    from senet.deploy.bench import bench, machine

    if not options.seconds > 0:
        raise SenetError(f"--seconds {options.seconds:g} must be positive")
    if options.out is not None and (options.out.suffix != ".png" or not options.out.resolve().parent.is_dir()):
        raise SenetError(f"--out {options.out}: name a .png file in an existing folder")
    try:
        with counting("measuring") as progress:
            rows = bench(
                options.model,
                runtimes=tuple(options.runtime.split(",")) if options.runtime else (),
                batch_sizes=options.batch_sizes,
                threads=options.threads,
                size=options.size,
                seconds=options.seconds,
                factory=options.factory,
                device=options.device,
                progress=progress,
            )
    except CheckpointError as error:  # elsewhere --model names the function of a checkpoint's network
        raise CheckpointError(str(error).replace("say --model ", "say --factory ")) from error
    if options.out is not None:
        from senet.cli.bench_plot import draw

        draw(rows, options.out)
    if options.json:
        print_json({"machine": machine(options.device), "rows": [row.to_dict() for row in rows]})
    else:
        _print(rows, machine(options.device))
    return 0


def _print(rows: list[Row], where: dict[str, str]) -> None:
    head = (
        "network",
        "runtime",
        "batch",
        "threads",
        "ms",
        "quartiles",
        "images/s",
        "time / first",
        "quartiles",
        "rounds",
    )
    table = [
        [
            row.network, row.runtime, str(row.batch), str(row.threads), f"{row.ms:.2f}", _range(row.ms_quartiles, 2),
            f"{row.images_per_second:,.1f}", f"{row.ratio:.3f}", _range(row.ratio_quartiles, 3), str(row.rounds),
        ]
        for row in rows
    ]  # fmt: skip
    height, width = rows[0].size
    print_table(head, table, title=f"{height}x{width} pixels, {where.get('accelerator', where['cpu'])}", left=2)
    print(", ".join(f"{name} {version}" for name, version in where.items() if name not in MACHINE))


def _range(quartiles: tuple[float, float], digits: int) -> str:
    return f"{quartiles[0]:.{digits}f}..{quartiles[1]:.{digits}f}"
