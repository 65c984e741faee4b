"""What it is worth that a process keeps the memory it has freed: training steps and inference on a processor.

    python benchmarks/memory_kept.py [--rounds 9] [--json benchmarks/memory_kept.json]

In turns in one process: as glibc does it by itself (maps of more than 32 MiB go back to the system), and as every
`senet` command has it. The peak of memory is of two processes more.
"""

from __future__ import annotations

import argparse
import ctypes
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
from senet.cli.memory import MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory

CASES = {
    "training step, se_resnet50_v1_5, batch 16": ("se_resnet50_v1_5", 16, 224, True),
    "inference, se_resnet50_v1_5, batch 32": ("se_resnet50_v1_5", 32, 224, False),
    "inference, se_resnet50_v1_5, batch 1": ("se_resnet50_v1_5", 1, 224, False),
    "training step, se_cifar_resnet20, batch 64": ("se_cifar_resnet20", 64, 32, True),
}


def by_itself() -> None:
    """Where glibc's own thresholds end up after the first large map: 32 MiB, and twice that."""
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(MMAP_THRESHOLD, 32 << 20)
    mallopt(TRIM_THRESHOLD, 64 << 20)


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


def compared(case: str, rounds: int) -> dict[str, object]:
    run = made(case)
    run()
    times: dict[str, list[float]] = {"by itself": [], "kept": []}
    pages: dict[str, int] = {}
    for _ in range(rounds):
        for name, settle in (("by itself", by_itself), ("kept", keep_freed_memory)):
            settle()
            run()
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
            pages[name] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    ratios = [kept / alone for alone, kept in zip(times["by itself"], times["kept"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "milliseconds": {name: round(1e3 * statistics.median(found), 1) for name, found in times.items()},
        "new pages a time": pages,
        "peak GiB of a process": {name: peak(case, name) for name in times},
    }


def peak(case: str, name: str) -> float:
    command = [sys.executable, __file__, "--peak", case, name]
    return float(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        case, name = options.peak
        if name == "kept":
            keep_freed_memory()
        run = made(case)
        for _ in range(4):
            run()
        print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2))
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
        result[case] = compared(case, options.rounds)
        print(case, json.dumps(result[case]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
