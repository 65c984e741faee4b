"""Compare the end of a residual block under torch.compile: the fused operator against Inductor's own fusion.

    python benchmarks/bench_compile.py [--processes 5] [--out benchmarks/compile.json]

A training step of SE-ResNet-50 v1.5 with one block a stage, batch 8, 224 pixels, float32, measured with `turns.py`.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from turns import child, in_turns, machine, randomised, ratio

import senet
from senet.ops import using

CANDIDATES = {  # network, compiled by Inductor, operators
    "SE, eager, operator": ("se_resnet50_v1_5", False, "compiled"),
    "plain, compiled, Inductor": ("resnet50_v1_5", True, "reference"),
    "SE, compiled, Inductor": ("se_resnet50_v1_5", True, "reference"),
    "SE, compiled, operator": ("se_resnet50_v1_5", True, "compiled"),
}
FIRST = "SE, compiled, operator"


def step(name: str) -> Callable[[], None]:
    network, inductor, choice = CANDIDATES[name]
    torch.manual_seed(0)
    model = randomised(senet.create_model(network, depths=(1, 1, 1, 1))).train()
    called = torch.compile(model) if inductor else model
    x = torch.randn(8, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (8,))

    def run() -> None:
        with using(choice):
            F.cross_entropy(called(x), labels).backward()
        model.zero_grad(set_to_none=True)

    run()  # the graph is made with this choice
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10.0, help="of turns in each process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/compile.json"))
    parser.add_argument("--child", nargs=2, choices=CANDIDATES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(in_turns(*map(step, options.child), seconds=options.seconds, least=3)))
        return
    result = {"case": "training step under torch.compile", "machine": machine(options.threads), "ratios": {}}
    for other in (name for name in CANDIDATES if name != FIRST):
        words = ["--child", FIRST, other, "--threads", str(options.threads), "--seconds", str(options.seconds)]
        found = [child(__file__, words, threads=options.threads) for _ in range(options.processes)]
        result["ratios"][f"{FIRST} / {other}"] = ratio([f for f in found if f])
    print(json.dumps(result, indent=1))
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
