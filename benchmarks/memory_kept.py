"""Measure the effect of keeping freed memory in a process: training steps and inference on CPU.

    python benchmarks/memory_kept.py [--pairs 5] [--json benchmarks/memory_kept.json]

Pairs of processes run one after the other. One has glibc's default, which returns allocations of more than 32 MiB to
the system. The other has the setting of every `senet` command.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import senet
from senet.cli.memory import keep_freed_memory

CASES = {
    "training step, se_resnet50_v1_5, batch 16": ("se_resnet50_v1_5", 16, 224, True),
    "inference, se_resnet50_v1_5, batch 32": ("se_resnet50_v1_5", 32, 224, False),
    "training step, se_cifar_resnet20, batch 64": ("se_cifar_resnet20", 64, 32, True),
}

TURNS = 7
"""Turns of a process. The first two don't count."""


def made(case: str) -> Callable[[], object]:
    name, batch, side, training = CASES[case]
    model = senet.create_model(name).to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    if not training:
        model.eval()
        return torch.inference_mode()(lambda: model(images))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = torch.randint(0, 10, (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def child(case: str, name: str) -> dict[str, float]:
    """Return a process's median time, the new pages of its last turn, and its peak memory."""
    if name == "kept":
        assert keep_freed_memory()
    run = made(case)
    times = []
    for _ in range(TURNS):
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "milliseconds": round(1e3 * statistics.median(times[2:]), 1),
        "new pages": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults,
        "peak GiB": round(int(peak.split()[1]) / 2**20, 2),
    }


def compared(case: str, pairs: int) -> dict[str, object]:
    found: dict[str, list[dict[str, float]]] = {"by itself": [], "kept": []}
    for _ in range(pairs):
        for name, runs in found.items():
            command = [sys.executable, __file__, "--child", case, name]
            runs.append(json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout))
    ratios = [b["milliseconds"] / a["milliseconds"] for a, b in zip(*found.values(), strict=True)]
    return {"ratio": round(statistics.median(ratios), 3), "of each pair": [round(r, 3) for r in ratios], **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    result: dict[str, object] = {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "glibc": platform.libc_ver()[1],
        "threads": torch.get_num_threads(),
    }
    for case in CASES:
        result[case] = compared(case, options.pairs)
        print(case, json.dumps(result[case]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
