"""Train in several ways with several seeds, and keep what each run gave. A run that is kept already is not repeated."""

from __future__ import annotations

import contextlib
import io
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from senet.cli import main as senet
from senet.comparison import spread
from senet.tasks.intervals import of_mean


def run_arms(
    arms: Mapping[str, Sequence[str]],
    seeds: Sequence[int],
    training: Sequence[str],
    *,
    begin: Sequence[str] = (),
    data: Path,
    work: Path,
    out: Path,
    row: Callable[[dict[str, Any], float, float], dict[str, Any]],
    about: Mapping[str, Any],
    summary: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> None:
    """Train each arm with each seed, evaluate its last network on the test images, and write the file after each run.

    Args:
        arms: Name to its own options of `senet train`. The arms take turns within each seed.
        seeds: Seeds.
        training: Options of all arms.
        begin: Further options of all arms that the file doesn't name, such as a path.
        data: Folder with train, val and test.
        work: Folder of the runs.
        out: The JSON file.
        row: From the evaluation, the seconds and the seconds of CPU time to what is kept of a run.
        about: Further entries of the file.
        summary: From all kept runs to the summary.
    """
    torch.set_num_threads(1)
    found = json.loads(out.read_text()) if out.exists() else {"runs": []}
    done = {(kept["arm"], kept["seed"]) for kept in found["runs"]}
    for seed in seeds:
        for arm, extra in arms.items():
            if (arm, seed) in done:
                continue
            folder = work / f"{arm.replace(' ', '-')}-{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            started, cpu = time.time(), time.process_time()
            _run(["train", *begin, *training, *extra, "--seed", str(seed), "--data", f"folder:{data}",
                  "--out", str(folder)])  # fmt: skip
            seconds, cpu = time.time() - started, time.process_time() - cpu
            result = json.loads(_run(["evaluate", "--checkpoint", str(folder / "last.safetensors"), "--data",
                                      f"folder:{data}", "--split", "test", "--workers", "0", "--json"]))  # fmt: skip
            found["runs"].append({"arm": arm, "seed": seed, **row(result, seconds, cpu)})
            print(found["runs"][-1], flush=True)
            found |= {"date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, one thread of a shared CPU",
                      "torch": torch.__version__, "training": ["senet train", *training], "arms": arms,
                      **about, "summary": summary(found["runs"])}  # fmt: skip
            out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["summary"], indent=1))


def _run(arguments: list[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = senet(arguments)
    assert code == 0, (arguments, output.getvalue())
    return output.getvalue()


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation and 95 % t interval of at least two values, one per seed."""
    found, between = spread(values), of_mean(values)
    assert between is not None
    return {"mean": found.mean, "sd": found.sd, "low": between[0], "high": between[1], "n": found.count}
