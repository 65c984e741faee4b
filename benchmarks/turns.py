"""Measure ratios of times: two candidates in turns, each ratio in fresh processes that load nothing else.

Other networks in a process change a ratio. With six networks in one process, SE-ResNet-50 over ResNet-50 was 1.30, and
alone 0.97. So a process measures just two candidates, alternately, and other load of the machine affects both. Its
figure is the median over its rounds of the ratio within a round. A ratio is the median over at least five processes,
given with the least and the greatest.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

import senet
from senet.ops import describe

__all__ = ["child", "collect", "in_turns", "machine", "randomised", "ratio"]

Run = Callable[[], Any]


def in_turns(first: Run, second: Run, *, seconds: float, least: int = 1, swapped: bool = False) -> dict[str, float]:
    """Run both in turns, after one run of each.

    Args:
        first: One candidate.
        second: The other.
        seconds: Duration of the rounds.
        least: Smallest number of rounds.
        swapped: Whether the second goes first. Every other process should swap if there is time for one round only.

    Returns:
        `ratio`, the median of first / second within a round; `first` and `second`, the medians in seconds; `rounds`.
    """
    if seconds:
        before = time.perf_counter()
        first()
        if time.perf_counter() - before < seconds:  # a long round needs no further warm-up
            second()
    taken: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(taken[0]) < least:
        # The order alternates, so that both profit from the caches alike.
        order = ((0, first), (1, second)) if (len(taken[0]) + swapped) % 2 == 0 else ((1, second), (0, first))
        for which, run in order:
            before = time.perf_counter()
            run()
            taken[which].append(time.perf_counter() - before)
    ratios = [a / b for a, b in zip(*taken, strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "first": statistics.median(taken[0]),
        "second": statistics.median(taken[1]),
        "rounds": len(ratios),
    }


def child(script: str, arguments: Sequence[str], *, threads: int, minutes: float = 30.0) -> dict[str, Any] | None:
    """Run `script` in a fresh process and return the JSON of its last line, or None without one."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        command = [sys.executable, script, *arguments]
        run = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=60 * minutes
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None
    lines = run.stdout.strip().splitlines()
    if run.returncode or not lines:
        print(run.stderr[-2000:], file=sys.stderr)
        return None
    return json.loads(lines[-1])


def collect(
    script: Path,
    cases: Mapping[str, Callable[[int], Sequence[str]]],
    page: Callable[[dict[str, Any]], str],
    *,
    processes: int,
    minutes: float,
    options: Sequence[str],
    threads: int,
) -> None:
    """Measure each case in fresh processes. `<script>.json` keeps all figures, so that a stopped run goes on.

    Args:
        script: The benchmark. Its `--child` measures a case and prints figures.
        cases: Name of each case, to the words after `--child` from the number of the process.
        page: The text of `<script>.md` from the kept figures, `{"machine": ..., "cases": {name: [figures, ...]}}`.
        processes: Processes for each case.
        minutes: No process starts after these.
        options: Further options of each process.
        threads: Of each process.
    """
    path = script.with_suffix(".json")
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    kept["machine"] = machine(threads)
    ends = time.monotonic() + 60 * minutes
    for process in range(processes):
        for name, words in cases.items():
            found = kept["cases"].setdefault(name, [])
            if len(found) > process:
                continue
            if time.monotonic() > ends:
                return
            arguments = ["--child", *words(process), *options, "--threads", str(threads)]
            figures = child(str(script), arguments, threads=threads)
            if figures is not None:
                found.append(figures)
                path.write_text(json.dumps(kept, indent=0) + "\n")
                script.with_suffix(".md").write_text(page(kept))
                print(name, figures, flush=True)


def ratio(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine the figures of several processes: medians, and the least and greatest ratio."""
    ratios = [f["ratio"] for f in found]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "least": round(min(ratios), 4),
        "greatest": round(max(ratios), 4),
        "first_ms": round(1e3 * statistics.median(f["first"] for f in found), 3),
        "second_ms": round(1e3 * statistics.median(f["second"] for f in found), 3),
        "processes": len(found),
        "rounds": sum(f["rounds"] for f in found),
    }


def randomised(model: nn.Module) -> nn.Module:
    """Draw gammas, biases, running statistics and gates at random, since zeros hide work. Sets channels_last."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.2, 1.0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_().mul_(0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.to(memory_format=torch.channels_last)


def machine(threads: int) -> dict[str, str]:
    """Return date, CPU, versions and kernel, for the head of a page."""
    with open("/proc/cpuinfo") as lines:
        text = lines.read()
    name = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    has = ", ".join(flag.upper() for flag in ("avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in text)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "CPU": f"{name or platform.machine()} ({has or 'no AVX-512'}), {os.cpu_count()} cores, {threads} threads",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, senet {senet.__version__}",
        "kernel": describe(),
    }
