"""Measure the cost of attention in OpenVINO: SE-ResNet-50 against ResNet-50, both exported by this package.

    python benchmarks/bench_deploy.py FILES            # makes the files in that folder first (minutes), then measures
    python benchmarks/bench_deploy.py FILES --cases "int8, batch 1" --seconds 60

Weights are random and nowhere zero. int8 is calibrated on crops of two photographs, so accuracy means nothing here. All
candidates of a case are called in turn in one process. A ratio is the median of the ratios of successive calls. Writes
`<out>.json`, where measured cases replace older ones of the same name, and the table of `<out>.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

import senet
from senet.data import Data, MemorySource, sample_images
from senet.deploy import Check, export
from senet.deploy.bench import machine, randomise

NETWORKS = {"plain": "resnet50_v1_5", "SE": "se_resnet50_v1_5"}
SIZE = (224, 224)
FILES: dict[str, dict[str, Any]] = {
    "float32, batch 1": {"size": SIZE, "batch": 1},
    "float32": {},
    "bf16": {"precision": "bf16"},
    "bf16, batch 1": {"precision": "bf16", "size": SIZE, "batch": 1},
    "int8": {"precision": "int8"},
}
# Name to the candidates (network, file) in the order of calls, and the batch size. The first is the baseline.
CASES: dict[str, tuple[tuple[tuple[str, str], ...], int]] = {
    "float32, batch 1": ((("plain", "float32, batch 1"), ("SE", "float32, batch 1"), ("SE", "float32")), 1),
    "float32, batch 1, straight": ((("plain", "straight"), ("SE", "straight")), 1),
    "float32, batch 8": ((("plain", "float32"), ("SE", "float32")), 8),
    "float32, batch 8, straight": ((("plain", "straight"), ("SE", "straight")), 8),
    "bf16, batch 1": ((("plain", "bf16, batch 1"), ("SE", "bf16, batch 1")), 1),
    "bf16, batch 8": ((("plain", "bf16"), ("SE", "bf16")), 8),
    "int8, batch 1": (
        (("plain", "int8"), ("SE", "int8"), ("SE", "float32, batch 1"), ("plain", "float32, batch 1")),
        1,
    ),
    "int8, batch 8": ((("plain", "int8"), ("SE", "int8"), ("SE", "float32")), 8),
}


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomise(senet.create_model(name)).eval()


def path_of(folder: Path, candidate: tuple[str, str]) -> Path:
    return folder / f"{candidate[0]} {candidate[1]}.xml".replace(",", "").replace(" ", "_")


def make(folder: Path, candidate: tuple[str, str]) -> None:
    """Export the missing files. "straight" is the direct export, without this package."""
    path, (which, file) = path_of(folder, candidate), candidate
    if path.exists():
        return
    model = network(NETWORKS[which])
    if file == "straight":
        batch = torch.export.Dim.DYNAMIC
        program = torch.export.export(model, (torch.zeros(2, 3, *SIZE),), dynamic_shapes=({0: batch},))
        openvino.save_model(openvino.convert_model(program), path, compress_to_fp16=False)
        return
    check = Check(images=2)
    if "int8" in file:
        pictures = [(picture,) for picture in sample_images(24)]
        source = MemorySource(pictures, np.zeros(len(pictures)), name="photographs")
        data = Data("photographs", tuple(map(str, range(1000))), source, source)
        check = Check(images=2, data=data, max_drop=100.0)
    print(export(model, path, format="openvino", check=check, **FILES[file]), flush=True)


def request(folder: Path, candidate: tuple[str, str], batch: int, threads: int) -> Callable[[], object]:
    core = openvino.Core()
    model = core.read_model(path_of(folder, candidate))
    model.reshape([batch, 3, *SIZE])
    hint = "bf16" if candidate[1].startswith("bf16") else "f32"
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": 1}
    made = core.compile_model(model, "CPU", options).create_infer_request()
    images = np.random.default_rng(0).standard_normal((batch, 3, *SIZE)).astype(np.float32)
    made.set_input_tensor(openvino.Tensor(images))
    return made.infer


def measured(name: str, folder: Path, seconds: float, threads: int) -> dict[str, Any]:
    candidates, batch = CASES[name]
    calls = {candidate: request(folder, candidate, batch, threads) for candidate in candidates}
    for call in calls.values():
        for _ in range(3):
            call()
    times: dict[tuple[str, str], list[float]] = {candidate: [] for candidate in candidates}
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(times[candidates[0]]) < 5:
        for candidate, call in calls.items():
            before = time.perf_counter()
            call()
            times[candidate].append(time.perf_counter() - before)
    first = times[candidates[0]]
    rows = []
    for candidate, taken in times.items():
        low, middle, high = statistics.quantiles([a / b for a, b in zip(taken, first, strict=True)], n=4)
        rows.append(
            {
                "network": candidate[0],
                "file": candidate[1],
                "ms": statistics.median(taken) * 1e3,
                "least ms": min(taken) * 1e3,
                "ratio": middle,
                "quartiles": [low, high],
                "rounds": len(taken),
            }
        )
        print(name, json.dumps(rows[-1]), flush=True)
    return {"case": name, "machine": machine(), "threads": threads, "rows": rows}


def markdown(cases: list[dict[str, Any]]) -> str:
    last = cases[-1]["machine"]
    lines = [
        "# SE-ResNet-50 against ResNet-50 in OpenVINO",
        "",
        "`python benchmarks/bench_deploy.py FILES`; " + ", ".join(f"{k} {v}" for k, v in last.items()) + ".",
        "",
        "| case | network | file | ms (median) | least | time / first (median) | quartiles | rounds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        for r in case["rows"]:
            spread = f"{r['quartiles'][0]:.3f} .. {r['quartiles'][1]:.3f}"
            lines.append(
                f"| {case['case']} | {r['network']} | {r['file']} | {r['ms']:.1f} | {r['least ms']:.1f} | "
                f"{r['ratio']:.3f} | {spread} | {r['rounds']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the exported files are, or go")
    parser.add_argument(
        "--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE", help="some only"
    )
    parser.add_argument("--make", action="store_true", help="only make the files")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/deploy"))
    options = parser.parse_args()
    chosen: list[str] = options.cases
    options.folder.mkdir(parents=True, exist_ok=True)
    for candidate in dict.fromkeys(c for name in chosen for c in CASES[name][0]):
        make(options.folder, candidate)
    if options.make:
        return
    kept = options.out.with_suffix(".json")
    found = {case["case"]: case for case in json.loads(kept.read_text())} if kept.exists() else {}
    for name in chosen:
        found[name] = measured(name, options.folder, options.seconds, options.threads)
        cases = [found[name] for name in CASES if name in found]
        kept.write_text(json.dumps(cases, indent=1) + "\n")
        page = options.out.with_suffix(".md")
        _, heading, by_hand = page.read_text().partition("\n## ") if page.exists() else ("", "", "")
        page.write_text(markdown(cases) + heading + by_hand)


if __name__ == "__main__":
    main()
