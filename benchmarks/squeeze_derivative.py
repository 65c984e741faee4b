"""A training step of an SE layer with the squeeze's own derivative, over that with PyTorch's derivative of the mean.

    python benchmarks/squeeze_derivative.py [--processes 5] [--minutes 60] [--threads 1]

Each case is one size, type and memory format. Both layers run forward and backward in turns, under autocast for
bfloat16. `squeeze_derivative.json` keeps the figures of each process, and `squeeze_derivative.md` is the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import collect, in_turns, ratio

from senet.nn import SqueezeExcite
from senet.nn.squeeze import MIN_ELEMENTS

HERE = Path(__file__)
SHAPES = ((8, 256, 56, 56), (8, 512, 28, 28), (8, 2048, 7, 7), (128, 64, 8, 8), (8, 64, 8, 8), (1, 16, 8, 8))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def plain_mean(x: Tensor) -> Tensor:
    """Return the spatial mean, with PyTorch's derivative."""
    return x.mean((2, 3), dtype=torch.float32).to(x.dtype)


def measured(shape: tuple[int, ...], dtype: str, layout: str, *, seconds: float, swapped: bool) -> dict[str, float]:
    """Time a step of both layers in turns."""
    torch.manual_seed(0)
    own = SqueezeExcite(shape[1], 16)
    plain = SqueezeExcite(shape[1], 16)
    plain.load_state_dict(own.state_dict())
    plain.squeeze = plain_mean
    leaf = torch.randn(shape).to(DTYPES[dtype]).contiguous(memory_format=FORMATS[layout]).requires_grad_()
    slope = torch.randn_like(leaf)

    def step(layer: SqueezeExcite) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            y = layer(torch.relu(leaf))
        y.backward(slope)
        leaf.grad = None
        layer.zero_grad()

    return in_turns(lambda: step(own), lambda: step(plain), seconds=seconds, least=5, swapped=swapped)


def page(kept: dict[str, Any]) -> str:
    """Return the text of the page."""
    rows = {name: ratio(found) for name, found in kept["cases"].items() if found}
    head = "| feature map | own ms | PyTorch's ms | own / PyTorch's | range | processes |"
    table = [
        f"| {name.replace('/', ', ')} | {r['first_ms']} | {r['second_ms']} | **{r['ratio']:.2f}** "
        f"| {r['least']:.2f} to {r['greatest']:.2f} | {r['processes']} |"
        for name, r in rows.items()
    ]
    return "\n".join(
        [
            "# The derivative of the squeeze",
            "",
            "A training step of a ReLU and an SE layer, forward and backward. The squeeze's own derivative is a view",
            "of (N, C) numbers. PyTorch's derivative of the mean is a contiguous feature map, and under autocast it",
            f"is written in float32 first. Feature maps of less than {MIN_ELEMENTS:,} elements keep PyTorch's.",
            "",
            f"`python {HERE.parent.name}/{HERE.name}`. " + ", ".join(kept["machine"].values()) + ".",
            "",
            head,
            "|---|---|---|---|---|---|",
            *table,
            "",
        ]
    )


def main() -> None:
    """Measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--child", nargs=4, metavar=("SHAPE", "DTYPE", "LAYOUT", "PROCESS"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        shape, dtype, layout, process = options.child
        sizes = tuple(map(int, shape.split("x")))
        found = measured(sizes, dtype, layout, seconds=options.seconds, swapped=int(process) % 2 == 1)
        print(json.dumps(found))
        return
    cases = {
        f"{'x'.join(map(str, shape))}/{dtype}/{layout}": lambda process, case=(shape, dtype, layout): (
            "x".join(map(str, case[0])),
            *case[1:],
            str(process),
        )
        for layout in FORMATS
        for dtype in DTYPES
        for shape in (SHAPES if layout == "channels_last" else SHAPES[1:2])
    }
    collect(
        HERE,
        cases,
        page,
        processes=options.processes,
        minutes=options.minutes,
        options=("--seconds", str(options.seconds)),
        threads=options.threads,
    )


if __name__ == "__main__":
    main()
