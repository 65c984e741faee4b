"""Say what this machine can do, and look through a data set before training does.

  senet doctor --data folder:PATH

The exit code is 1 if something was found that a training would trip over.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from senet.cli import options as shared
from senet.cli.output import counting, print_json, print_table

__all__ = ["add_arguments", "run"]

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "safetensors", "timm")
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """This verb's options."""
    shared.add_data_options(parser, required=False)
    parser.add_argument("--workers", type=int, metavar="N", help="processes that decode images")
    parser.add_argument("--json", action="store_true", help="print it as JSON, all of it")


def run(options: argparse.Namespace) -> int:
    """Look and tell."""
    machine = _machine()
    if options.data is None:
        if options.json:
            print_json({"machine": machine})
        else:
            print_table(("machine", ""), [[name, str(value)] for name, value in machine.items()], left=2)
        return 0
    from senet.data import scan

    data = shared.data_options(options).open()
    with counting("reading images") as progress:
        report = scan(data, workers=options.workers, progress=progress).to_dict()
    corrupt = [row for part in report["parts"].values() for row in part["corrupt"]]
    if options.json:
        print_json({"machine": machine, "data": report})
    else:
        _print_data(report, corrupt, COUNTED[data.task])
    return 1 if corrupt or report["annotation_issues"] or report["label_conflicts"] or report["leaks"] else 0


def _machine() -> dict[str, Any]:
    import torch

    from senet.ops import describe

    found: dict[str, Any] = {"python": f"{platform.python_version()} ({sys.executable})"}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["processor"] = f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    found["torch threads"] = torch.get_num_threads()
    found["fast bf16 on this processor"] = _fast_bf16()
    found["kernel"] = describe()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    found["accelerator"] = f"{torch.accelerator.device_count()} x {accelerator}" if accelerator else "none"
    found["free disk here"] = f"{shutil.disk_usage('.').free / 1e9:.1f} GB"
    return found


def _fast_bf16() -> str:
    """Whether products of bfloat16 have instructions of their own here; that PyTorch can compute them isn't enough."""
    import torch

    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "no"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "yes"
    names = {"AVX512-BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
    there = [name for name, has in names.items() if has]
    if there:
        return f"yes ({', '.join(there)})"
    return "no (neither AVX512-BF16 nor AMX: --precision bf16 works, but is emulated and saves no time)"


COUNTED = {"classification": "images", "detection": "boxes", "segmentation": "images"}
"""What there are so many of a class."""


def _print_data(report: dict[str, Any], corrupt: list[list[str]], counted: str) -> None:
    rows = []
    for name, part in report["parts"].items():
        counts = part["per_class"].values()
        sizes = f"{_range(part['width'])} x {_range(part['height'])}"
        modes = ", ".join(f"{mode} {count:,}" for mode, count in part["modes"].items())
        per_class = f"{min(counts):,}..{max(counts):,}"
        rows.append([name, f"{part['images']:,}", str(len(counts)), per_class, sizes, modes, str(len(part["corrupt"]))])
    head = ("part", "images", "classes", f"{counted} a class", "width x height", "modes", "corrupt")
    print_table(head, rows, title=report["name"])
    deep = [[name, part["bit_depth"]] for name, part in report["parts"].items() if part["bit_depth"]]
    findings = (
        ("corrupt: path, reason", corrupt),
        ("boxes and masks: path, reason", report["annotation_issues"]),
        ("the same image is trained on and measured on", report["leaks"]),
        ("the same image in two classes", report["label_conflicts"]),
        ("the same image twice", report["duplicates"]),
        ("16-bit images: part, what they use", deep),
        ("left out, not of a format that is read", [[path, ""] for path in report["left_out"]]),
    )
    for title, pairs in findings:
        if pairs:
            shown = [[str(a), str(b)] for a, b in pairs[:SHOWN]]
            if len(pairs) > SHOWN:
                shown.append([f"... and {len(pairs) - SHOWN:,} more (--json has all)", ""])
            print_table((f"{title} ({len(pairs):,})", ""), shown, left=2)
    if not any(pairs for _, pairs in findings):
        print("nothing found that a training would trip over")


def _range(ends: tuple[int, int] | None) -> str:
    if ends is None:
        return "-"
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"
