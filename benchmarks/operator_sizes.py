"""Find the smallest feature map for which the fused operator is no slower than the modules.

    python benchmarks/operator_sizes.py [--out benchmarks/operator_sizes.json]

The operator and the modules compute the end of a residual block in turns (in training also its backward pass), with a
fresh process for each size. `nn/epilogue.py` takes its limits from here.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from turns import child, in_turns, machine, ratio

import senet.nn.epilogue as home
from senet.nn import SqueezeExcite

KINDS = ("norm", "add", "se")
SHAPES = ((1, 16, 4), (1, 16, 16), (1, 16, 32), (4, 16, 32), (16, 16, 32), (128, 16, 32), (1, 64, 8), (4, 64, 8),
          (128, 64, 8), (1, 256, 14), (8, 256, 14), (1, 512, 7), (8, 512, 7), (1, 64, 56), (8, 64, 56), (1, 2048, 7),
          (1, 256, 56))  # fmt: skip
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def runs(kind: str, shape: tuple[int, int, int], layout: str, training: bool) -> list[Callable[[], object]]:
    torch.manual_seed(0)
    n, c, side = shape
    x, shortcut, dy = (torch.randn(n, c, side, side).contiguous(memory_format=LAYOUTS[layout]) for _ in range(3))
    norm, relu = nn.BatchNorm2d(c).train(training), nn.ReLU(inplace=True)
    nn.init.uniform_(norm.weight, 0.2, 1)
    attention = SqueezeExcite(c, min(16, c // 4)) if kind == "se" else nn.Identity()
    for tensor in (x, shortcut):
        tensor.requires_grad_(training)

    def run() -> None:
        with torch.set_grad_enabled(training):
            if kind == "norm":
                y = home.norm_relu(x, norm, relu)
            else:
                y = home.residual_epilogue(x, norm, attention, shortcut)
            if training:
                y.backward(dy)

    def limited(least: int) -> Callable[[], None]:
        def chosen() -> None:
            home.MIN_ELEMENTS.update(dict.fromkeys(home.MIN_ELEMENTS, least))
            for _ in range(max(1, 2**18 // x.numel())):  # small ones take less time than the clock's grain
                run()

        return chosen

    return [limited(0), limited(1 << 60)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/operator_sizes.json"))
    parser.add_argument("--child", nargs=3, metavar=("N", "C", "SIDE"), type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        found = {
            f"{kind}, {layout}, {mode}": in_turns(
                *runs(kind, tuple(options.child), layout, mode == "training"), seconds=0.3, least=5
            )
            for kind in KINDS for layout in LAYOUTS for mode in ("inference", "training")
        }  # fmt: skip
        print(json.dumps(found))
        return
    result: dict[str, object] = {"machine": machine(options.threads), "sizes": {}}
    for shape in SHAPES:
        words = ["--child", *map(str, shape), "--threads", str(options.threads)]
        found = [child(__file__, words, threads=options.threads) for _ in range(options.processes)]
        kept = [f for f in found if f]
        name = "x".join(map(str, (*shape, shape[2])))
        result["sizes"][name] = {key: ratio([f[key] for f in kept]) for key in kept[0]}  # type: ignore[index]
        print(name, {key: value["ratio"] for key, value in result["sizes"][name].items()}, flush=True)  # type: ignore[index]
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
