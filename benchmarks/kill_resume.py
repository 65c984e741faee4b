"""Kill one training at random moments with SIGKILL, and compare its end with an uninterrupted training.

    python benchmarks/kill_resume.py [--kills 20] [--seed 0] [--workers 2] [--out benchmarks/kill_resume.json]

Both trainings use all random or stateful options: crops, rotations, erased rectangles, mixup and cutmix, averaged
weights, momentum, a schedule. One is killed after a random time and resumed at once, again and again. Its loader
processes are not killed. At the end weights, averages, optimiser, schedule, table and logs must be the same bits.
Durations differ and are left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "training"))
from equality import UNEQUAL, differences, events, rows, state
from processes import Child, start
from safetensors.torch import load_file

from senet.training.states import TrainingStates

OPTIONS = [
    "train", "--data", "digits", "--model", "se_cifar_resnet20", "--size", "16", "--epochs", "12", "--batch-size", "32",
    "--save-every", "5", "--ema-decay", "0.9", "--mixup", "0.2", "--cutmix", "0.5", "--random-erasing", "0.3",
    "--crop", "pad", "--pad", "2", "--rotation", "10", "--clip-grad-norm", "1",
]  # fmt: skip


def begin(folder: Path, workers: int, log: Path) -> Child:
    """Start or continue the training in a folder."""
    begun = (folder / "run.json").is_file()
    options = ["train", "--resume", folder] if begun else [*OPTIONS, "--out", folder]
    return start(*options, "--workers", workers, log=log)


def kill_again_and_again(folder: Path, options: argparse.Namespace, log: Path, seconds: float) -> list[Any]:
    """Train to the end in spite of the kills. Returns the saved files at each kill.

    Args:
        folder: The folder of the run.
        options: As parsed.
        log: Gets the output of the processes.
        seconds: Duration of the uninterrupted training.
    """
    rng = random.Random(options.seed)
    kills: list[Any] = []
    while True:
        child = begin(folder, options.workers, log)
        # A kill throws the run back to its last state, so it advances a little each time on average.
        child.process.join(rng.uniform(0, 2.5 * seconds / options.kills) if len(kills) < options.kills else None)
        if child.process.exitcode is not None:
            child.finish()
            return kills
        child.signal(signal.SIGKILL)
        child.process.join()
        saved = TrainingStates(folder).all()
        torn = sum(1 for path in folder.rglob("*") if ".tmp" in path.name)
        kills.append({"saved": str(saved[0]) if saved else "nothing", "half_written_files": torn})
        print(f"kill {len(kills)}: {kills[-1]}", flush=True)


def compared(one: Path, other: Path) -> dict[str, list[str]]:
    """Return the differences of two runs by their subject."""
    weights = [{name: load_file(f / f"{name}.safetensors") for name in ("last", "best")} for f in (one, other)]
    return {
        "weights": differences(*weights),
        "state": differences(state(one), state(other)),
        "metrics.csv": [] if rows(one) == rows(other) else ["rows"],
        "tensorboard": [] if events(one) == events(other) else ["events"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("kill_resume.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        there = Path(temporary)
        started = time.monotonic()
        begin(there / "whole", options.workers, there / "log").finish()
        seconds = time.monotonic() - started
        kills = kill_again_and_again(there / "killed", options, there / "killed.log", seconds)
        found = compared(there / "whole", there / "killed")
    result = {
        "command": " ".join(["python", *sys.argv]),
        "training": f"senet {' '.join(OPTIONS)} --workers {options.workers}",
        "seconds_alone": round(seconds, 1),
        "seconds_killed": round(time.monotonic() - started - seconds, 1),
        "kills": kills,
        "differences": found,
        "left_out": sorted(UNEQUAL),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(kills)} kills; differences: {found}")
    sys.exit(any(found.values()))


if __name__ == "__main__":
    main()
