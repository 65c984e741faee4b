"""Find the smallest feature map for which the fused operator is no slower than the modules.

    python benchmarks/operator_sizes.py [--out benchmarks/operator_sizes.json] [--kinds norm,add,se,inside,alone]

The operator and the modules compute the end of a residual block in turns (in training also its backward pass), with a
fresh process for each size. `nn/epilogue.py` takes its limits from here, and `fusion/deferred.py` those of
attention inside a block (norm, SiLU, SE) and of SE alone.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from turns import child, in_turns, machine, ratio

import senet.nn.epilogue as home
from senet.fusion import deferred
from senet.nn import SqueezeExcite

KINDS = ("norm", "add", "se", "inside", "alone")
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
    inside = nn.Sequential(norm, nn.SiLU(inplace=True), SqueezeExcite(c, min(16, c // 4)))
    if kind in ("inside", "alone"):
        deferred.defer(norm=norm if kind == "inside" else None, activations=inside[1:2], attention=inside[2])

    def run() -> None:
        with torch.set_grad_enabled(training):
            if kind == "norm":
                y = home.norm_relu(x, norm, relu)
            elif kind == "inside":
                y = inside(x)
            elif kind == "alone":
                y = inside[2](x)
            else:
                y = home.residual_epilogue(x, norm, attention, shortcut)
            if training:
                y.backward(dy)

    def limited(least: int) -> Callable[[], None]:
        def chosen() -> None:
            home.MIN_ELEMENTS.update(dict.fromkeys(home.MIN_ELEMENTS, least))
            deferred.MIN_ELEMENTS.update(dict.fromkeys(deferred.MIN_ELEMENTS, least))
            for _ in range(max(1, 2**18 // x.numel())):  # small ones take less time than the clock's grain
                run()

        return chosen

    return [limited(0), limited(1 << 60)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("benchmarks/operator_sizes.json"))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--child", nargs=3, metavar=("N", "C", "SIDE"), type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        found = {
            f"{kind}, {layout}, {mode}": in_turns(
                *runs(kind, tuple(options.child), layout, mode == "training"), seconds=0.3, least=5
            )
            for kind in options.kinds.split(",") for layout in LAYOUTS for mode in ("inference", "training")
        }  # fmt: skip
        print(json.dumps(found))
        return
    sizes = json.loads(options.out.read_text())["sizes"] if options.out.exists() else {}
    result: dict[str, Any] = {"machine": machine(options.threads), "sizes": sizes}
    for shape in SHAPES:
        words = ["--child", *map(str, shape), "--threads", str(options.threads), "--kinds", options.kinds]
        found = [child(__file__, words, threads=options.threads) for _ in range(options.processes)]
        kept = [f for f in found if f]
        name = "x".join(map(str, (*shape, shape[2])))
        new = {key: ratio([f[key] for f in kept]) for key in kept[0]}
        sizes.setdefault(name, {}).update(new)
        print(name, {key: value["ratio"] for key, value in new.items()}, flush=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
