"""The compiled operators against the reference, for every network: is a network ever slower with them?

    python benchmarks/compiled_reference.py [--only NAME] [--batches 1,8,128] [--minutes 60] [--processes 5]

One training step and one inference of each network of `senet list`, with random weights and statistics, at its own
image size, channels_last, float32. A ratio is compiled / reference as `turns.py` says. Goes on where it stopped:
`compiled_reference.json` keeps the figures of each process, `compiled_reference.md` is the table of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from turns import child, in_turns, machine, randomised, ratio

import senet
from senet.nn import epilogue
from senet.ops import using

MODES = ("inference", "training")
HERE = Path(__file__)


def measure(name: str, batch: int, mode: str, *, seconds: float, swapped: bool) -> dict[str, Any]:
    """In this process: the figures of `in_turns`."""
    torch.manual_seed(0)
    model = randomised(senet.create_model(name)).train(mode == "training")
    size = model.spec.preprocessing.size
    x = torch.randn(batch, 3, *size).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64)

    def step() -> None:
        if mode == "inference":
            with torch.inference_mode():
                model(x)
        else:
            F.cross_entropy(model(x), labels).backward()
            model.zero_grad(set_to_none=True)

    def on(choice: str) -> None:
        with using(choice):
            step()

    calls = counted(lambda: on("compiled"))
    found = in_turns(lambda: on("compiled"), lambda: on("reference"), seconds=seconds, swapped=swapped)
    return found | {"calls": calls}


def counted(run: Callable[[], None]) -> int:
    """How often a step calls the fused operator: the first one, in which memory is also taken for the first time."""
    calls = 0
    real = epilogue.bn_se_add_relu

    def counting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*arguments)

    epilogue.bn_se_add_relu = counting
    try:
        run()
    finally:
        epilogue.bn_se_add_relu = real
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names contain this")
    parser.add_argument("--batches", default="1,8,128")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no process after these")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of turns in each process, at least one turn")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory-gib", type=float, default=20.0, help="a process that wants more is left out")
    parser.add_argument("--child", nargs=4, metavar=("NETWORK", "BATCH", "MODE", "PROCESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        most = int(options.memory_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        name, batch, mode, process = options.child
        try:
            swapped = int(process) % 2 == 1
            print(json.dumps(measure(name, int(batch), mode, seconds=options.seconds, swapped=swapped)))
        except (MemoryError, RuntimeError) as error:
            print(json.dumps({"error": str(error).splitlines()[0][:200]}))
        return
    results = Results(HERE.with_suffix(".json"), options.threads)
    ends = time.monotonic() + 60 * options.minutes
    names = [name for name in senet.list_models() if options.only in name]
    cases = [(n, int(b), m) for b in options.batches.split(",") for m in options.modes.split(",") for n in names]
    for process in range(options.processes):
        for case in cases:
            if results.count(case) > process or results.failed(case) or (process and results.same_modules(case)):
                continue
            if time.monotonic() > ends:
                return
            limits = ["--seconds", str(options.seconds), "--threads", str(options.threads)]
            words = ["--child", *map(str, case), str(process), *limits]
            found = child(str(HERE), words, threads=options.threads)
            results.add(case, found or {"error": "ended without a result"})
            print(*case, found, flush=True)


class Results:
    """The figures so far, written after each process."""

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        self.kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"cases": {}}
        self.kept["machine"] = machine(threads)

    def _found(self, case: tuple[str, int, str]) -> list[dict[str, Any]]:
        return self.kept["cases"].setdefault("/".join(map(str, case)), [])

    def count(self, case: tuple[str, int, str]) -> int:
        return len(self._found(case))

    def same_modules(self, case: tuple[str, int, str]) -> bool:
        """Whether no operator was called: both sides then run the same modules, and there is no ratio to refine."""
        return any(f.get("calls") == 0 for f in self._found(case))

    def failed(self, case: tuple[str, int, str]) -> bool:
        return any("error" in f for f in self._found(case))

    def add(self, case: tuple[str, int, str], found: dict[str, Any]) -> None:
        self._found(case).append(found)
        self.kept["cases"] = {k: v for k, v in self.kept["cases"].items() if v}
        self.path.write_text(json.dumps(self.kept, indent=0) + "\n")
        self.path.with_suffix(".md").write_text(self.page())

    def page(self) -> str:
        rows: dict[str, dict[str, str]] = {}
        above = measured = 0
        for key, found in self.kept["cases"].items():
            name, batch, mode = key.split("/")
            row = rows.setdefault(name, {})
            if any("error" in f for f in found):
                row[f"{mode} {batch}"] = "memory"
                continue
            if not found[0].get("calls", 1):
                row[f"{mode} {batch}"] = "="
                continue
            together = ratio(found)
            measured += 1
            above += together["ratio"] > 1.02
            few = "" if together["processes"] >= 5 else f" ({together['processes']})"
            row[f"{mode} {batch}"] = f"{together['ratio']:.3f}{few}"
        columns = [f"{mode} {batch}" for mode in MODES for batch in (1, 8, 128)]
        lines = [
            "# Compiled operators / reference, every network",
            "",
            "Time with the compiled operators over time without: `python benchmarks/compiled_reference.py`.",
            "Median over five fresh processes, in turns; the number of processes in brackets where they are fewer.",
            f"{above} of {measured} ratios are above 1.02. `=`: a step is too small for the operator to pay, or it has",
            "no block of its kind: no operator was called (counted, in one process), both sides run the same modules.",
            "",
            *(f"- {key}: {value}" for key, value in self.kept["machine"].items()),
            "",
            "| network | " + " | ".join(columns) + " |",
            "|---|" + "---|" * len(columns),
            *(
                f"| {name} | " + " | ".join(row.get(c, "") for c in columns) + " |"
                for name, row in sorted(rows.items())
            ),
        ]
        return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
