"""What `senet.optimize` gives: time of other libraries' networks, and the cost of attention in optimized networks.

    python benchmarks/optimized.py [--only NAME] [--processes 5] [--minutes 60]

Two candidates run in turns in fresh processes: a network optimized and as it comes, or an optimized network with
attention and its plain counterpart. Random weights, statistics and gates, channels_last. It goes on where it stopped:
`optimized.json` keeps the figures of each process, `optimized.md` is the table.
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from turns import collect, in_turns, randomised, ratio

import senet
from senet.external import external_library

HERE = Path(__file__)
EAGER = ("timm:efficientnet_b0", "timm:mobilenetv3_large_100", "timm:seresnet50")
"""Networks whose time optimized is divided by their time as they come."""
PAIRS = (
    ("se_resnet50_v1_5", "resnet50_v1_5", "bfloat16"),
    ("se_resnet50_v1_5", "resnet50_v1_5", "float32"),
    ("se_mobilenet_v1", "mobilenet_v1", "float32"),
    ("se_cifar_resnet20", "cifar_resnet20", "float32"),
)
"""With attention, without, type: both optimized."""
BATCHES = (1, 8)


def cases() -> list[tuple[str, str, str, int]]:
    """First candidate, second ("" is the same network as it comes), type, batch size."""
    eager = [(name, "", "float32", batch) for name in EAGER for batch in BATCHES]
    return [*eager, *((first, second, kind, batch) for first, second, kind in PAIRS for batch in BATCHES)]


def built(name: str, kind: str) -> nn.Module:
    """The network with random numbers."""
    made = external_library(name).build(num_classes=1000) if ":" in name else senet.create_model(name)
    return randomised(made).eval().to(getattr(torch, kind))


def measure(first: str, second: str, kind: str, batch: int, seconds: float, swapped: bool) -> dict[str, Any]:
    """In this process: first / second, in turns."""
    torch.manual_seed(0)
    given = built(first, kind)
    fast, _ = senet.optimize(given)
    other = senet.optimize(built(second, kind))[0] if second else given
    size = 32 if "cifar" in first else 224
    x = torch.randn(batch, 3, size, size).to(getattr(torch, kind)).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        return in_turns(lambda: fast(x), lambda: other(x), seconds=seconds, least=5, swapped=swapped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no process after these")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of turns in each process")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", nargs=5, metavar=("FIRST", "SECOND", "TYPE", "BATCH", "PROCESS"),
                        help=argparse.SUPPRESS)  # fmt: skip
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        first, second, kind, batch, process = options.child
        print(json.dumps(measure(first, second, kind, int(batch), options.seconds, int(process) % 2 == 1)))
        return
    named = {"/".join(map(str, case)): case for case in cases()}
    chosen = {name: partial(_words, *case) for name, case in named.items() if options.only in name}
    collect(
        HERE,
        chosen,
        page,
        processes=options.processes,
        minutes=options.minutes,
        options=["--seconds", str(options.seconds)],
        threads=options.threads,
    )


def _words(first: str, second: str, kind: str, batch: int, process: int) -> list[str]:
    return [first, second, kind, str(batch), str(process)]


def page(kept: dict[str, Any]) -> str:
    """Both tables."""
    tables = (
        ("Optimized / as the network comes, float32", [c for c in cases() if not c[1]]),
        ("With attention / without, both optimized", [c for c in cases() if c[1]]),
    )
    lines = [
        "# Inference with `senet.optimize`",
        "",
        "`python benchmarks/optimized.py`: medians over fresh processes, in turns.",
        "",
        *(f"- {key}: {value}" for key, value in kept["machine"].items()),
    ]
    for title, rows in tables:
        lines += ["", f"## {title}", "", "| network | batch | ratio | least to greatest | ms | processes |"]
        lines.append("|---|---|---|---|---|---|")
        for first, second, kind, batch in rows:
            found = kept["cases"].get(f"{first}/{second}/{kind}/{batch}")
            if found:
                r = ratio(found)
                times = f"{r['first_ms']:.1f} / {r['second_ms']:.1f}"
                spread = f"{r['least']:.3f} to {r['greatest']:.3f}"
                name = first if not second else f"{first}, {kind}"
                lines.append(f"| {name} | {batch} | {r['ratio']:.3f} | {spread} | {times} | {r['processes']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
