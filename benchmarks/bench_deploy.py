"""Attention's cost in exported files: SE / plain, both exported here, in OpenVINO and ONNX Runtime.

    python benchmarks/bench_deploy.py FILES --make                    # makes the files in that folder (minutes)
    python benchmarks/bench_deploy.py FILES [--only NAME] [--processes 5] [--seconds 5]

Weights, statistics and gates are random and nowhere zero; int8 is calibrated on two photographs (accuracy means
nothing here). A fresh process loads the SE and the plain file with `load_exported`, so with the options that this
package uses, and runs them in turns. A float32 or int8 file computes its float part in float32, also on CPUs with AMX,
since the runtime gets the hint. It goes on where it stopped: `deploy.json` keeps the figures of each process,
`deploy.md` is the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import child, in_turns, machine, ratio

import senet
from senet.data import Data, MemorySource, sample_images
from senet.deploy import Check, export, load_exported
from senet.deploy.bench import randomise

HERE = Path(__file__)
SIZE = (224, 224)
RESNETS = ("se_resnet50_v1_5", "resnet50_v1_5")
MOBILE = ("se_mobilenet_v1", "mobilenet_v1")


@dataclass(frozen=True)
class Case:
    """One row. `fixed` files take `batch` images of SIZE only; others take any."""

    networks: tuple[str, str]
    format: str
    precision: str
    batch: int
    fixed: bool = True

    @property
    def threads(self) -> int:
        return 2 if self.format == "openvino" else 1

    def file(self, folder: Path, network: str) -> Path:
        kind = f"batch{self.batch}" if self.fixed else "any"
        return folder / f"{network}_{self.precision}_{kind}.{'xml' if self.format == 'openvino' else 'onnx'}"


CASES = {
    f"{format} {name}, batch {batch}{'' if fixed else ' (any size and batch)'}{note}": Case(
        networks, format, precision, batch, fixed
    )
    for networks, note in ((RESNETS, ""), (MOBILE, ", MobileNet v1"))
    for format, precision, name, batch, fixed in (
        ("openvino", "32", "float32", 1, True),
        ("openvino", "32", "float32", 8, True),
        ("openvino", "bf16", "bf16", 1, True),
        ("openvino", "bf16", "bf16", 8, True),
        ("openvino", "int8", "int8", 1, False),
        ("openvino", "int8", "int8", 8, False),
        ("onnx", "32", "float32", 1, True),
        ("onnx", "32", "float32", 4, True),
        ("onnx", "32", "float32", 4, False),
    )
    if networks is RESNETS or (precision, batch) == ("32", 1)
}


def make(case: Case, folder: Path) -> None:
    """Export the case's files, if that isn't done yet."""
    for name in case.networks:
        path = case.file(folder, name)
        if path.exists():
            continue
        torch.manual_seed(0)
        model = randomise(senet.create_model(name)).eval()
        check = Check(images=case.batch)
        if case.precision == "int8":
            photographs = [(photograph,) for photograph in sample_images(24)]
            source = MemorySource(photographs, np.zeros(len(photographs)), name="photographs")
            data = Data("photographs", tuple(map(str, range(1000))), source, source)
            check = Check(images=case.batch, data=data, max_drop=100.0)
        shape: dict[str, Any] = {"size": SIZE, "batch": case.batch} if case.fixed else {}
        print(export(model, path, format=case.format, precision=case.precision, check=check, **shape), flush=True)


def measured(case: Case, folder: Path, seconds: float) -> dict[str, float]:
    """Both files in turns, in this process."""
    torch.set_num_threads(case.threads)
    images = torch.randn(case.batch, 3, *SIZE, generator=torch.Generator().manual_seed(0))

    def opened(name: str) -> Callable[[], object]:
        runtime = "openvino" if case.format == "openvino" else "onnxruntime"
        loaded = load_exported(case.file(folder, name), runtime=runtime, threads=case.threads)
        return lambda: loaded.model(images)

    with torch.inference_mode():
        return in_turns(*map(opened, case.networks), seconds=seconds, least=4)


def table(report: dict[str, Any]) -> str:
    where = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [
        "# SE against plain networks in the runtimes",
        "",
        f"`python benchmarks/bench_deploy.py FILES`; {where}.",
        "",
        "| case | SE / plain (least to greatest) | SE ms | plain ms | threads | processes, rounds |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in CASES.items():
        if name in report["found"]:
            r = ratio(report["found"][name])
            lines.append(
                f"| {name} | {r['ratio']:.3f} ({r['least']:.3f} to {r['greatest']:.3f}) | {r['first_ms']:.1f} | "
                f"{r['second_ms']:.1f} | {case.threads} | {r['processes']}, {r['rounds']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the exported files are, or go")
    parser.add_argument("--only", default="", help="the cases whose name contains this")
    parser.add_argument("--make", action="store_true", help="only make the files")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each process")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measured(CASES[options.child], options.folder, options.seconds)))
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    chosen = {name: case for name, case in CASES.items() if options.only in name}
    for case in chosen.values():
        make(case, options.folder)
    if options.make:
        return
    kept, page = HERE.with_name("deploy.json"), HERE.with_name("deploy.md")
    report = json.loads(kept.read_text()) if kept.exists() else {"found": {}}
    report["machine"] = machine(2) | {name: metadata.version(name) for name in ("openvino", "nncf", "onnxruntime")}
    for round_number in range(options.processes):
        for name, case in chosen.items():
            if len(report["found"].get(name, [])) > round_number:
                continue
            arguments = [str(options.folder), "--child", name, "--seconds", str(options.seconds)]
            found = child(str(HERE), arguments, threads=case.threads)
            if found is not None:
                report["found"].setdefault(name, []).append(found)
            kept.write_text(json.dumps(report, indent=1) + "\n")
            _, heading, by_hand = page.read_text().partition("\n## ") if page.exists() else ("", "", "")
            page.write_text(table(report) + heading + by_hand)
            print(name, found, flush=True)


if __name__ == "__main__":
    main()
