"""Measure latency and throughput of networks and exported files, in turn, so that their ratios can be trusted.

  senet bench se_resnet50 resnet50 --batch-sizes 1,8
  senet bench runs/flowers flowers.onnx flowers.xml --threads 1,2 --out bench.png
  senet bench flowers.onnx --runtime onnxruntime,openvino

The first is what the others are compared with: the median of the ratios of times measured right after one another. A
network by name gets random weights (no zeros, which would hide work). Networks run in PyTorch as they are and, with
--runtime optimized, after `senet.optimize`; files in their own runtime, or in those that --runtime names.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table
from senet.errors import SenetError

if TYPE_CHECKING:
    from senet.deploy.bench import Row

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="MODEL_OR_FILE",
        help="a name of `senet list`, a checkpoint or its folder, or a file of `senet export`",
    )
    parser.add_argument("--model", metavar="M:F", help="your own network's module:function, if one was trained with it")
    parser.add_argument(
        "--runtime", metavar="R,R", help="eager, optimized (networks); onnxruntime, openvino, torch (files)"
    )
    parser.add_argument(
        "--batch-sizes", type=_numbers, default=(1,), metavar="N,N", help="images at a time (default 1)"
    )
    parser.add_argument("--threads", type=_numbers, metavar="N,N", help="processor threads (default: PyTorch's choice)")
    parser.add_argument("--size", type=shared.parse_size, metavar="N", help="pixels (default: the first network's own)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="for each batch size and number of threads (default 10)",
    )
    parser.add_argument("--out", type=Path, metavar="PNG", help="draw the throughput there")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(options: argparse.Namespace) -> int:
    """Measure and print."""
    from senet.deploy.bench import bench, machine

    if not options.seconds > 0:
        raise SenetError(f"--seconds {options.seconds:g} must be positive")
    if options.out is not None and (options.out.suffix != ".png" or not options.out.resolve().parent.is_dir()):
        raise SenetError(f"--out {options.out}: name a .png file in a folder that is there")
    with counting("measuring") as progress:
        rows = bench(
            options.networks,
            runtimes=tuple(options.runtime.split(",")) if options.runtime else (),
            batch_sizes=options.batch_sizes,
            threads=options.threads,
            size=options.size,
            seconds=options.seconds,
            factory=options.model,
            progress=progress,
        )
    if options.out is not None:
        from senet.cli.bench_plot import draw

        draw(rows, options.out)
    if options.json:
        print_json({"machine": machine(), "rows": [row.to_dict() for row in rows]})
    else:
        _print(rows, machine())
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(shared.positive(part) for part in text.split(","))


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
    print_table(head, table, title=f"{height}x{width} pixels, {where['cpu']}", left=2)
    print(", ".join(f"{name} {version}" for name, version in where.items() if name not in ("cpu", "date")))


def _range(quartiles: tuple[float, float], digits: int) -> str:
    return f"{quartiles[0]:.{digits}f}..{quartiles[1]:.{digits}f}"
