"""Check this machine and a data set before a training.

The exit code is 1 if the data has an issue that would disturb a training.

Examples:
  senet doctor
  senet doctor folder:PATH
  senet doctor --data coco:PATH --json
  senet doctor --data folder:PATH --statistics --channels 4 --bit-depth 16
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
from senet.cli.parser import add_subject, add_switch
from senet.errors import SenetError

__all__ = ["USAGE", "add_arguments", "run"]

USAGE = """senet doctor [DATA] [--workers N] [--json] [options, see below]"""

LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "safetensors", "timm")
SHOWN = 20
ORDINARY = {"1 channel, 8 bit", "3 channels, 8 bit"}
"""Forms of images that any training reads."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    group = parser.add_argument_group("data")
    add_subject(group, "data", required=False, help=f"{shared.DATA} (default: only the machine is checked)")
    shared.add_split_options(group)
    shared.add_workers_option(parser)
    add_switch(
        group, "--statistics", help="compute mean and deviation of each channel over all training images, and no more"
    )
    shared.add_channel_options(group, "the first image's, for --statistics")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Check and report."""
    _refuse_without_effect(options)
    if options.statistics:
        return _statistics(options)
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
    corrupt = [row for split in report["splits"].values() for row in split["corrupt"]]
    if options.json:
        print_json({"machine": machine, "data": report})
    else:
        _print_data(report, corrupt, COUNTED[data.task])
    return 1 if corrupt or report["annotation_issues"] or report["label_conflicts"] or report["leaks"] else 0


def _refuse_without_effect(options: argparse.Namespace) -> None:
    for name in ("channels", "bit_depth"):
        if getattr(options, name) is not None and not options.statistics:
            raise SenetError(
                f"--{name.replace('_', '-')} is for --statistics; doctor reports the channels of any image"
            )
    if options.statistics and options.data is None:
        raise SenetError("--statistics needs --data")


def _statistics(options: argparse.Namespace) -> int:
    """Print the statistics of each channel, and the options that train with these channels."""
    from senet.data.band_statistics import band_statistics
    from senet.data.bands import describe
    from senet.preprocessing import FLOAT_DEPTH

    data = shared.data_options(options).open()
    form = describe(data.train, 0)[1]
    channels, bit_depth = options.channels or form.channels, options.bit_depth or form.bits
    with counting("computing statistics") as progress:
        found = band_statistics(data.train, channels=channels, bit_depth=bit_depth, progress=progress)
    if options.json:
        print_json({"statistics": found.to_dict()})
        return 0
    columns = zip(found.mean, found.std, found.smallest, found.largest, strict=True)
    rows = [[str(number), *(f"{value:.6g}" for value in row)] for number, row in enumerate(columns)]
    title = f"{found.images:,} training images of {data.name}"
    print_table(("channel", "mean", "std", "smallest", "largest"), rows, title=title)
    depth = "float" if bit_depth == FLOAT_DEPTH else bit_depth
    print(f"white is 1; train with --channels {channels} --bit-depth {depth}")
    return 0


def _machine() -> dict[str, Any]:
    import torch

    from senet.inference.backends import describe_tf32
    from senet.ops import describe, triton

    found: dict[str, Any] = {"python": f"{platform.python_version()} ({sys.executable})"}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["CPU"] = f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
    found["torch threads"] = torch.get_num_threads()
    found["fast bf16 on this CPU"] = _fast_bf16()
    found["kernel"] = describe()
    found["Triton kernels"] = triton.describe()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    found["accelerator"] = f"{torch.accelerator.device_count()} x {accelerator}" if accelerator else "none"
    found["TF32"] = describe_tf32()
    found["senet.accelerate"] = _accelerates(accelerator)
    found["free disk here"] = f"{shutil.disk_usage('.').free / 1e9:.1f} GB"
    return found


def _accelerates(accelerator: object) -> str:
    """Whether `senet.accelerate` changes the computation on this machine, and with it `senet train`."""
    from senet.ops import choose, triton

    on_gpu = triton.state().on
    if choose().library is None and not on_gpu:
        return "no effect, since the compiled kernel is missing"
    where = f"on the CPU, {'and' if on_gpu else 'but not'} on {accelerator}" if accelerator else "on this CPU"
    return f"runs norms with their channel attention {where}"


def _fast_bf16() -> str:
    """Whether this CPU multiplies bfloat16 natively. PyTorch computes it on any CPU, but slowly."""
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


COUNTED = {"classification": "images", "multi-label": "images", "detection": "boxes", "segmentation": "images"}
"""Return the name of the counted objects: images or boxes."""


def _print_data(report: dict[str, Any], corrupt: list[list[str]], counted: str) -> None:
    from senet.data.balance import rare_classes
    from senet.data.channels import form_counts

    rows = []
    for name, split in report["splits"].items():
        counts = split["per_class"].values()
        sizes = f"{_range(split['width'])} x {_range(split['height'])}"
        modes = ", ".join(f"{mode} {count:,}" for mode, count in split["modes"].items())
        per_class = f"{min(counts):,}..{max(counts):,}"
        rows.append(
            [name, f"{split['images']:,}", str(len(counts)), per_class, sizes, modes, str(len(split["corrupt"]))]
        )
    head = ("split", "images", "classes", f"{counted} a class", "width x height", "modes", "corrupt")
    print_table(head, rows, title=report["name"])
    for name, split in report["splits"].items():
        if split["forms"].keys() - ORDINARY:
            print(f"{name}: {form_counts(split['forms'])}")
    rare = rare_classes(report["splits"].get("train", {}).get("per_class", {})) if counted == "images" else []
    deep = [[name, split["bit_depth"]] for name, split in report["splits"].items() if split["bit_depth"]]
    findings = (
        ("corrupt: path, reason", corrupt),
        ("boxes and masks: path, reason", report["annotation_issues"]),
        ("the same image is trained on and measured on", report["leaks"]),
        ("the same image in two classes", report["label_conflicts"]),
        ("the same image twice", report["duplicates"]),
        ("16-bit images: split, used bits", deep),
        ("rare classes of the training split", [line.rsplit(": ", 1) for line in rare]),
        ("left out, unsupported format", [[path, ""] for path in report["left_out"]]),
    )
    for title, pairs in findings:
        if pairs:
            shown = [[str(a), str(b)] for a, b in pairs[:SHOWN]]
            if len(pairs) > SHOWN:
                shown.append([f"... and {len(pairs) - SHOWN:,} more (--json has all)", ""])
            print_table((f"{title} ({len(pairs):,})", ""), shown, left=2)
    if not any(pairs for _, pairs in findings):
        print("no issues found")


def _range(ends: tuple[int, int] | None) -> str:
    if ends is None:
        return "-"
    return str(ends[0]) if ends[0] == ends[1] else f"{ends[0]}..{ends[1]}"
