"""The compiled operators against the reference, for every network at any batch size, from the times of its blocks.

    python benchmarks/compiled_blocks.py [--only NAME] [--batches 1,8,128] [--processes 5] [--minutes 60]

Between two runs of a whole network the machine changes by more than the operators do. So each block of each network is
timed alone, in turns, in its size in the network. Equal blocks are timed once, in a fresh process for all of them. A
network's ratio is `1 + sum(compiled - reference) / reference time of the network`. The denominator is measured in a
process of its own at batch 1 and 8. 128 counts as 16 times 8. A block for which the modules compute in either case
costs nothing.

The command continues where it stopped: `compiled_blocks.json` keeps the figures of each process, and
`compiled_blocks.md` is the table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import child, in_turns, machine, randomised

import senet
from senet.nn import SqueezeExcite, epilogue
from senet.ops import using

MODES = ("inference", "training")
HERE = Path(__file__)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Block(NamedTuple):
    """Properties that determine the time of a block's end.

    Attributes:
        kind: `norm` (norm, ReLU), `add` (with a shortcut) or `se` (with attention, too).
        channels: C.
        height: H.
        width: W.
        hidden: Hidden units of the attention, 0 without attention.
        layout: Memory layout of the feature map.
    """

    kind: str
    channels: int
    height: int
    width: int
    hidden: int
    layout: str

    @property
    def key(self) -> str:
        """Return a JSON-ready form."""
        return "/".join(map(str, self))


def counted(run: Callable[[], None]) -> int:
    """Number of calls of the fused operator in `run`."""
    calls = 0
    real = epilogue.bn_se_add_relu

    def counting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return real(*arguments)

    epilogue.bn_se_add_relu = counting
    try:
        run()
    finally:
        epilogue.bn_se_add_relu = real
    return calls


def blocks_of(name: str) -> Counter[Block]:
    """Count the blocks of a network whose ends the operator may compute."""
    found: Counter[Block] = Counter()

    def note(kind: str, x: Tensor, hidden: int = 0) -> None:
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        found[Block(kind, *x.shape[1:], hidden, "channels_last" if last else "contiguous")] += 1

    def residual(x: Tensor, norm: nn.Module, se: nn.Module, shortcut: Tensor) -> Tensor:
        attended = isinstance(se, SqueezeExcite)
        note("se" if attended else "add", x, se.fc1.out_features if attended else 0)
        return real["residual_epilogue"](x, norm, se, shortcut)

    def relu(x: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
        note("norm", x)
        return real["norm_relu"](x, norm, activation)

    real = {name: getattr(epilogue, name) for name in ("residual_epilogue", "norm_relu")}
    replacements = {"residual_epilogue": residual, "norm_relu": relu}
    users = [m for m in list(sys.modules.values()) if (getattr(m, "__name__", "") or "").startswith("senet.")]
    patched = [(m, n) for m in users for n in real if getattr(m, n, None) is real[n]]
    model = senet.create_model(name).to(memory_format=torch.channels_last).eval()
    x = torch.randn(2, 3, *model.spec.preprocessing.size).contiguous(memory_format=torch.channels_last)
    for module, function in patched:
        setattr(module, function, replacements[function])
    try:
        with torch.inference_mode():
            model(x)
    finally:
        for module, function in patched:
            setattr(module, function, real[function])
    return found


def runner(block: Block, batch: int, mode: str) -> Callable[[], None]:
    """Call the end of a block once, and in training its backward pass."""
    torch.manual_seed(0)
    training = mode == "training"
    shape = (batch, block.channels, block.height, block.width)
    x, shortcut, dy = (torch.randn(shape).contiguous(memory_format=FORMATS[block.layout]) for _ in range(3))
    norm, relu = nn.BatchNorm2d(block.channels).train(training), nn.ReLU(inplace=True)
    nn.init.uniform_(norm.weight, 0.2, 1)
    se: nn.Module = nn.Identity()
    if block.kind == "se":
        se = SqueezeExcite(block.channels, reduction=block.channels // block.hidden)
    if training:
        x.requires_grad_()
        shortcut.requires_grad_()

    def run() -> None:
        with torch.inference_mode(not training):
            if block.kind == "norm":
                y = epilogue.norm_relu(x, norm, relu)
            else:
                y = epilogue.residual_epilogue(x, norm, se, shortcut)
            if training:
                y.backward(dy)

    return run


def measure(blocks: list[Block], batch: int, mode: str, process: int, seconds: float) -> dict[str, Any]:
    """Return the figures of `in_turns` for each block, measured in this process. None if the operator isn't called."""
    random.Random(process).shuffle(blocks)
    found: dict[str, Any] = {}
    for block in blocks:
        run = runner(block, batch, mode)

        def on(choice: str, run: Callable[[], None] = run) -> None:
            with using(choice):
                run()

        called = counted(lambda on=on: on("compiled"))  # type: ignore[misc]
        compiled, reference = (lambda on=on: on("compiled")), (lambda on=on: on("reference"))  # type: ignore[misc]
        found[block.key] = in_turns(compiled, reference, seconds=seconds, least=3) if called else None
    return found


def times_of(name: str) -> dict[str, float]:
    """Return the seconds of a step of the network with the reference, by `batch/mode`, measured in this process."""
    torch.manual_seed(0)
    model = randomised(senet.create_model(name))
    found = {}
    for mode in MODES:
        model.train(mode == "training")
        for batch in (1, 8):
            x = torch.randn(batch, 3, *model.spec.preprocessing.size).contiguous(memory_format=torch.channels_last)
            labels = torch.zeros(batch, dtype=torch.int64)
            if mode == "training" and batch == 1:
                x = torch.cat([x, x])  # a batch of one has no variance if a feature map is one pixel
                labels = labels.repeat(2)
            taken = []
            for _ in range(4):
                before = time.perf_counter()
                with using("reference"), torch.inference_mode(mode == "inference"):
                    y = model(x)
                    if mode == "training":
                        F.cross_entropy(y, labels).backward()
                taken.append(time.perf_counter() - before)
            found[f"{batch}/{mode}"] = min(taken[1:]) / (len(x) / batch)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names contain this")
    parser.add_argument("--batches", default="1,8,128")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--minutes", type=float, default=60.0, help="start no process after these")
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.25, help="of turns for each block in each process")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--network", help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=3, metavar=("BATCH", "MODE", "PROCESS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = HERE.with_suffix(".json")
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"networks": {}, "blocks": {}}
    if options.child:
        batch, mode, process = options.child
        wanted = {Block(*row[:6]) for rows in kept["networks"].values() for row in rows}
        done = kept["blocks"].get(f"{batch}/{mode}", {})
        left = sorted(b for b in wanted if len(done.get(b.key, ())) <= int(process))
        print(json.dumps(measure(left, int(batch), mode, int(process), options.seconds)))
        return
    if options.network:
        print(json.dumps(times_of(options.network)))
        return
    for name in senet.list_models():
        if options.only in name and name not in kept["networks"]:
            kept["networks"][name] = [[*block, count] for block, count in sorted(blocks_of(name).items())]
    kept["machine"] = machine(options.threads)
    path.write_text(json.dumps(kept) + "\n")
    ends = time.monotonic() + 60 * options.minutes
    for process in range(options.processes):
        for case in (f"{b}/{m}" for b in options.batches.split(",") for m in options.modes.split(",")):
            figures = kept["blocks"].setdefault(case, {})
            wanted = {Block(*row[:6]).key for rows in kept["networks"].values() for row in rows}
            if all(len(figures.get(key, ())) > process for key in wanted):
                continue
            if time.monotonic() > ends:
                return
            words = ["--child", *case.split("/"), str(process), "--seconds", str(options.seconds)]
            found = child(str(HERE), [*words, "--threads", str(options.threads)], threads=options.threads, minutes=90)
            for key, value in (found or {}).items():
                figures.setdefault(key, []).append(value)
            path.write_text(json.dumps(kept) + "\n")
            HERE.with_suffix(".md").write_text(page(kept))
            print(case, process, len(found or {}), flush=True)
    for name, blocks in kept["networks"].items():
        if blocks and name not in kept.setdefault("times", {}):
            if time.monotonic() > ends:
                return
            words = ["--network", name, "--threads", str(options.threads)]
            kept["times"][name] = child(str(HERE), words, threads=options.threads)
            path.write_text(json.dumps(kept) + "\n")
            HERE.with_suffix(".md").write_text(page(kept))
            print(name, kept["times"][name], flush=True)


def page(kept: dict[str, Any]) -> str:
    """Return the page with the table of all networks."""
    rows, above, count = [], [], 0
    for name, blocks in sorted(kept["networks"].items()):
        cells = []
        for mode in MODES:
            for batch in (1, 8, 128):
                value = network_ratio(
                    kept["blocks"].get(f"{batch}/{mode}", {}), blocks, kept.get("times", {}).get(name), batch, mode
                )
                cells.append("" if value is None else "=" if value == 1 else f"{value:.3f}")
                if value is not None and value != 1:
                    count += 1
                    above += [f"{name} ({mode} {batch}: {value:.3f})"] if value > 1.02 else []
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    processes = min((len(v) for case in kept["blocks"].values() for v in case.values()), default=0)
    head = " | ".join(f"{mode} {batch}" for mode in MODES for batch in (1, 8, 128))
    lines = [
        "# Compiled operators / reference, from the blocks of every network",
        "",
        "`python benchmarks/compiled_blocks.py`: the time of each network with the compiled operators over the time",
        f"without, from the times of its blocks (medians of {processes} fresh processes).",
        "`=`: no block is large enough, so that both sides run the same modules.",
        f"{len(above)} of {count} ratios are above 1.02{': ' if above else '.'}{', '.join(above)}",
        "",
        *(f"- {key}: {value}" for key, value in kept["machine"].items()),
        "",
        f"| network | {head} |",
        "|---|" + "---|" * 6,
        *rows,
    ]
    return "\n".join(lines) + "\n"


def network_ratio(
    figures: dict[str, Any], blocks: list[list[Any]], times: dict[str, float] | None, batch: int, mode: str
) -> float | None:
    """`1 + sum(compiled - reference) / time of the network`; None if a figure is missing, 1 without a call."""
    total, called = 0.0, False
    for *block, count in blocks:
        found = figures.get(Block(*block).key)
        if not found:
            return None
        if found[0] is not None:
            called = True
            total += count * statistics.median(f["first"] - f["second"] for f in found)
    if not called:
        return 1.0
    if times is None:
        return None
    return 1 + total / (times[f"{batch}/{mode}"] if batch <= 8 else times[f"8/{mode}"] * batch / 8)


if __name__ == "__main__":
    main()
