"""Measure the cost of channel attention in a training step, before and after `senet.accelerate`.

    python benchmarks/accelerate.py [--only NAME] [--processes 5] [--minutes 60]

Each network runs in turns with itself without attention (its attention layers replaced by the identity), in fresh
processes: as it comes, and accelerated. Random weights, statistics and gates, channels_last, float32 and bfloat16
autocast. Activations are those that one training step keeps. It goes on where it stopped: `accelerate.json` keeps the
figures of each process, `accelerate.md` is the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import collect, in_turns, randomised, ratio

import senet
from senet.external import external_library
from senet.gates import gated_layers
from senet.profiling import saved_bytes

HERE = Path(__file__)
# Network to batch size.
NETWORKS = {
    "timm:seresnet50": 4,
    "timm:regnety_008": 8,
    "timm:efficientnet_b0": 8,
    "timm:mobilenetv3_large_100": 8,
    "se_mobilenet_v1": 8,
    "se_vgg11": 4,
    "se_shufflenet_v1_g3": 8,
    "se_densenet121": 4,
    "se_bn_inception": 8,
    "se_inception_v3": 4,
    "se_inception_resnet_v2": 4,
}
MODES = ("training float32", "training bfloat16", "inference float32")


def built(name: str) -> nn.Module:
    """The network, with random numbers and without dropout."""
    library, given, other = name.partition(":")
    model = external_library(name).build(num_classes=1000) if given else senet.create_model(library)
    del other
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return randomised(model)


def without_attention(model: nn.Module) -> nn.Module:
    """Return a copy whose attention layers return their input."""
    plain = copy.deepcopy(model)
    for path in gated_layers(plain):
        plain.set_submodule(path, nn.Identity())
    return plain


def measure(name: str, mode: str, accelerated: bool, seconds: float, swapped: bool) -> dict[str, Any]:
    """In this process: with attention / without, in turns."""
    torch.manual_seed(0)
    training, bf16 = mode.startswith("training"), mode.endswith("bfloat16")
    model = built(name).train(training)
    plain = without_attention(model)
    x = torch.randn(NETWORKS[name], 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(len(x), dtype=torch.int64)
    if accelerated:
        senet.accelerate(model, x[:1])

    def step(network: nn.Module) -> None:
        with torch.inference_mode(not training), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y: Tensor = network(x)
        if training:
            F.cross_entropy(y.float(), labels).backward()
            network.zero_grad(set_to_none=True)

    found = in_turns(lambda: step(model), lambda: step(plain), seconds=seconds, least=3, swapped=swapped)
    if training and not bf16:
        found["memory"] = saved_bytes(model, x) / saved_bytes(plain, x)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names contain this")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--minutes", type=float, default=60.0, help="start no process after these")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of turns in each process")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--accelerated", action="store_true", help="only accelerated networks")
    parser.add_argument(
        "--child", nargs=4, metavar=("NETWORK", "MODE", "ACCELERATED", "PROCESS"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        name, mode, accelerated, process = options.child
        print(json.dumps(measure(name, mode, accelerated == "True", options.seconds, int(process) % 2 == 1)))
        return
    cases = {
        f"{name}/{mode}/{accelerated}": partial(_words, name, mode, accelerated)
        for mode in options.modes.split(",")
        for name in NETWORKS
        if options.only in name
        for accelerated in ((True,) if options.accelerated else (True, False))
    }
    collect(
        HERE,
        cases,
        page,
        processes=options.processes,
        minutes=options.minutes,
        options=["--seconds", str(options.seconds)],
        threads=options.threads,
    )


def _words(name: str, mode: str, accelerated: bool, process: int) -> list[str]:
    return [name, mode, str(accelerated), str(process)]


def page(kept: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for name in NETWORKS:
        cells = []
        for mode in MODES:
            for accelerated in (False, True):
                found = kept["cases"].get(f"{name}/{mode}/{accelerated}")
                cells.append(f"{ratio(found)['ratio']:.3f} ({len(found)})" if found else "")
        for accelerated in (False, True):
            found = [f["memory"] for f in kept["cases"].get(f"{name}/{MODES[0]}/{accelerated}") or () if "memory" in f]
            cells.append(f"{found[0]:.3f}" if found else "")
        if any(cells):
            rows.append(f"| {name}, {NETWORKS[name]} | " + " | ".join(cells) + " |")
    columns = [f"{mode}{which}" for mode in (*MODES, "activations") for which in ("", ", accelerated")]
    lines = [
        "# Time with channel attention / without, unchanged and accelerated",
        "",
        "`python benchmarks/accelerate.py`: medians over fresh processes (their number in brackets), in turns.",
        "",
        *(f"- {key}: {value}" for key, value in kept["machine"].items()),
        "",
        "| network, batch | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
        *rows,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
