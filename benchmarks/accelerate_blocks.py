"""What accelerated attention costs in a training step, from its blocks: norm, activation and attention alone.

    python benchmarks/accelerate_blocks.py [--processes 5] [--minutes 60]

Two runs of a whole network differ by more than attention costs (0.87 to 1.19 on a shared machine). So each norm,
activation and attention of a network runs alone, forward and backward, in its size there: as modules, accelerated, and
without attention, in turns. The ratio of the network is 1 + sum(with - without) / its own step without attention,
measured in the same process. Random weights and statistics, channels_last, 224 pixels, float32 and bfloat16 autocast.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import NETWORKS, built, without_attention
from torch import Tensor, nn
from turns import collect

import senet
from senet.fusion import deferred

HERE = Path(__file__)
MODES = ("float32", "bfloat16")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "hard_swish": nn.Hardswish,
}
WAYS = ("modules", "accelerated", "without")


def timed(runs: list[Callable[[], None]], seconds: float) -> list[float]:
    """Medians of several candidates in turns, in seconds."""
    taken: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    started = time.perf_counter()
    while time.perf_counter() - started < seconds or len(taken[0]) < 3:
        for which, run in enumerate(runs):
            before = time.perf_counter()
            run()
            taken[which].append(time.perf_counter() - before)
    return [statistics.median(t) for t in taken]


def shapes_of(model: nn.Module, report: senet.AccelerateReport, x: Tensor) -> dict[str, torch.Size]:
    """The size of the feature map before each norm (or attention without one)."""
    modules, found, handles = dict(model.named_modules()), {}, []
    for layer in report.fused:

        def keep(_: nn.Module, args: Any, path: str = layer.attention) -> None:
            found[path] = args[0].shape

        handles.append(modules[layer.norm or layer.attention].register_forward_pre_hook(keep))
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def measure(name: str, mode: str, seconds: float) -> dict[str, float]:
    """In this process: seconds of all blocks in each way, and of a step of the network without attention."""
    bf16 = mode == "bfloat16"
    torch.manual_seed(0)
    model = built(name).train()
    plain = without_attention(model)
    x = torch.randn(NETWORKS[name], 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(len(x), dtype=torch.int64)
    report = senet.accelerate(model, x[:1])
    shapes, modules = shapes_of(model, report, x), dict(model.named_modules())
    total = dict.fromkeys(WAYS, 0.0)
    known: dict[Any, list[float]] = {}
    for layer in report.fused:
        shape = shapes[layer.attention]
        if (shape, layer.activation, layer.norm is None) not in known:
            attention = copy.deepcopy(modules[layer.attention])
            deferred.restore(attention.modules())
            before = [] if layer.norm is None else [nn.BatchNorm2d(shape[1]), ACTIVATIONS[layer.activation]()]
            nets = [nn.Sequential(*copy.deepcopy(before), attention), nn.Sequential(*before)]
            fused = copy.deepcopy(nets[0])
            act = list(fused)[1:-1] if layer.activation != "identity" else []
            deferred.defer(norm=None if layer.norm is None else fused[0], activations=act, attention=fused[-1])
            image = torch.randn(shape, dtype=torch.bfloat16 if bf16 else torch.float32)
            image = image.contiguous(memory_format=torch.channels_last).requires_grad_()
            dy = torch.randn_like(image)

            def step(net: nn.Module, image: Tensor = image, dy: Tensor = dy) -> None:
                if not len(list(net.children())):
                    return
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    y = net(image)
                y.backward(dy)
                image.grad = None
                net.zero_grad(set_to_none=True)

            runs = [lambda net=net: step(net) for net in (nets[0].train(), fused.train(), nets[1].train())]
            known[shape, layer.activation, layer.norm is None] = timed(runs, seconds)
        for way, found in zip(WAYS, known[shape, layer.activation, layer.norm is None], strict=True):
            total[way] += found

    def whole() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = plain(x)
        F.cross_entropy(y.float(), labels).backward()
        plain.zero_grad(set_to_none=True)

    [network] = timed([whole], 3.0)
    return {**total, "network": network}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names contain this")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no process after these")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8, help="of turns for each block")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "MODE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        print(json.dumps(measure(*options.child, options.seconds)))
        return
    cases = {
        f"{name}/{mode}": lambda _, words=(name, mode): words
        for mode in options.modes.split(",")
        for name in NETWORKS
        if options.only in name
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


def ratios(figures: dict[str, float]) -> list[float]:
    """The network with attention / without, as modules and accelerated."""
    return [1 + (figures[way] - figures["without"]) / figures["network"] for way in WAYS[:2]]


def page(kept: dict[str, Any]) -> str:
    """The table."""
    rows = []
    for mode in MODES:
        for name in NETWORKS:
            found = kept["cases"].get(f"{name}/{mode}")
            if found:
                cells = []
                for which in (0, 1):
                    all_ratios = sorted(ratios(f)[which] for f in found)
                    cells.append(f"{statistics.median(all_ratios):.3f} ({all_ratios[0]:.3f} to {all_ratios[-1]:.3f})")
                rows.append(f"| {name}, batch {NETWORKS[name]} | {mode} | {cells[0]} | {cells[1]} | {len(found)} |")
    lines = [
        "# A training step with channel attention / without, from blocks",
        "",
        "`python benchmarks/accelerate_blocks.py`: medians over fresh processes, least and greatest in brackets.",
        "Each norm, activation and attention of a network runs alone, in its size there. The ratio is",
        "1 + sum(with - without) / step of the network without attention.",
        "A block finds its feature map in the caches more often than in the whole network",
        "([accelerate.md](accelerate.md)).",
        "",
        *(f"- {key}: {value}" for key, value in kept["machine"].items()),
        "",
        "| network | precision | modules | `senet.accelerate` | processes |",
        "|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
