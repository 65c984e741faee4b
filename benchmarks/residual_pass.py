"""How long a pass over all residual ends of ResNet-50 takes on this machine: the floor of a scale that is no part of a
convolution.

    python benchmarks/residual_pass.py [--processes 5]

The pass reads two feature maps and writes a third, for each of the 16 blocks, as does `relu(gate * y + shortcut)`. It
does one addition for each number, so memory alone decides. Median over fresh processes. `residual_pass.json` keeps the
figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from turns import child, machine

HERE = Path(__file__)
SHAPES = [(256, 56)] * 3 + [(512, 28)] * 4 + [(1024, 14)] * 6 + [(2048, 7)] * 3
"""Channels, and height or width, of the output of each block."""
CASES = [(dtype, batch) for dtype in ("float32", "bfloat16") for batch in (1, 4, 8)]


def measure(rounds: int = 30) -> dict[str, dict[str, float]]:
    """Megabytes, and milliseconds of a pass, in this process."""
    found = {}
    for dtype, batch in CASES:
        maps = [
            [torch.randn(batch, size, size, c).to(getattr(torch, dtype)) for _ in range(3)] for c, size in SHAPES
        ]  # fmt: skip
        times = []
        for _ in range(rounds):
            before = time.perf_counter()
            for a, b, out in maps:
                torch.add(a, b, out=out)
            times.append(1e3 * (time.perf_counter() - before))
        size = sum(t.nbytes for three in maps for t in three) / 1e6
        found[f"{dtype}, batch {batch}"] = {"megabytes": round(size, 1), "ms": round(statistics.median(times), 3)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure()))
        return
    runs = [child(str(HERE), ["--child", "--threads", str(options.threads)], threads=options.threads)
            for _ in range(options.processes)]  # fmt: skip
    done = [run for run in runs if run is not None]
    cases = {}
    for case in done[0]:
        size, ms = done[0][case]["megabytes"], statistics.median(run[case]["ms"] for run in done)
        cases[case] = {"megabytes": size, "ms": ms, "gigabytes_per_second": round(size / ms, 1), "processes": len(done)}
        print(case, cases[case])
    report = {"machine": machine(options.threads), "cases": cases}
    HERE.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
