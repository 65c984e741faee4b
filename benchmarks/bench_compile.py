"""Compare, under torch.compile, the tail as one operator with the tail as plain PyTorch that Inductor fuses itself.

    python benchmarks/bench_compile.py [--rounds 15] [--out benchmarks/compile.json]

A training step of SE-ResNet-50 v1.5 with one unit a stage, batch 8, 224 pixels, float32; the candidates run in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from bench_speed import Case, measure, processor, randomised, summary

import senet
from senet.nn import tail


def never() -> bool:
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/compile.json"))
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(8, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (8,))

    def step(model: torch.nn.Module, operator: Callable[[], bool] = tail._compiled_training) -> Callable[[], None]:
        def run() -> None:
            with patch.object(tail, "_compiled_training", operator):  # read while the graph is made, and guarded
                F.cross_entropy(model(x), labels).backward()
            model.zero_grad(set_to_none=True)

        return run

    def network(name: str) -> torch.nn.Module:
        return randomised(senet.create_model(name, depths=(1, 1, 1, 1))).train()

    runs = {
        "SE, eager, operator": step(network("se_resnet50_v1_5")),
        "plain, compiled, Inductor": step(torch.compile(network("resnet50_v1_5")), never),
        "SE, compiled, Inductor": step(torch.compile(network("se_resnet50_v1_5")), never),
        "SE, compiled, operator": step(torch.compile(network("se_resnet50_v1_5"))),
    }
    first = "SE, compiled, Inductor"
    case = Case("training step under torch.compile", runs, [(name, first) for name in runs if name != first])
    measure(case, 0.0, options.rounds)
    found = {**summary(case), "processor": processor(), "torch": torch.__version__}
    print(json.dumps(found, indent=1))
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
