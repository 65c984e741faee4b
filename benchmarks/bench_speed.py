"""Measure the cost of Squeeze-and-Excitation in time and memory: training steps, inference, kernel passes.

    python benchmarks/bench_speed.py [--quick] [--all] [--only NAME] [--processes 5] [--out benchmarks/speed]

Ratios come from `turns.py`: two candidates in turns, in fresh processes. Weights, gammas, statistics and gates are
random: zeros would hide work. Writes `<out>.json` and `<out>.md`. `--only` measures the cases whose names contain it
("memory" and "passes" too). All other figures stay.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn
from turns import child, in_turns, machine, randomised, ratio

import senet
from senet.ops import bn_se_add_relu, using
from senet.ops.bn_se_add_relu import _compute_backward as backward_of
from senet.profiling import saved_bytes

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
HERE = Path(__file__)

# --- networks -----------------------------------------------------------------------------------------------------

NETWORKS = {  # ours with SE: timm's plain, timm's SE, pixels
    "resnet50_v1_5": ("resnet50", "seresnet50", 224),
    "resnext50_32x4d_v1_5": ("resnext50_32x4d", "seresnext50_32x4d", 224),
    "mobilenet_v1": ("mobilenetv1_100", None, 224),
    "cifar_resnet20": (None, None, 32),
}
TRAINING = (("SE", "timm plain"), ("SE", "timm SE"), ("SE", "plain"), ("SE", "SE, reference"),
            ("SE, reference", "plain, reference"))  # fmt: skip
INFERENCE = (("SE, optimized", "timm plain"), ("SE, optimized", "timm SE"), ("SE, optimized", "plain, optimized"),
             ("SE, optimized", "SE"))  # fmt: skip


def network(name: str, candidate: str) -> nn.Module:
    """Build the network of a candidate: "SE", "plain", "timm SE" or "timm plain". Text after a comma is ignored."""
    torch.manual_seed(0)
    plain, attentive, _ = NETWORKS[name]
    makers: dict[str, Callable[[], nn.Module]] = {
        "SE": lambda: senet.create_model(f"se_{name}"),
        "plain": lambda: senet.create_model(name),
        "timm SE": lambda: timm.create_model(attentive),
        "timm plain": lambda: timm.create_model(plain),
    }
    return randomised(makers[candidate.partition(",")[0]]())


def images(name: str, batch: int) -> torch.Tensor:
    pixels = NETWORKS[name][2]
    return torch.randn(batch, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)


def step(model: nn.Module, x: torch.Tensor, dtype: str) -> Callable[[], None]:
    labels = torch.randint(0, 10, (len(x),))

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            loss = F.cross_entropy(model(x), labels)
        loss.backward()
        model.zero_grad(set_to_none=True)

    return run


def forward(model: nn.Module, x: torch.Tensor, dtype: str) -> Callable[[], None]:
    model, x = model.to(DTYPES[dtype]), x.to(DTYPES[dtype])

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


def candidate(kind: str, name: str, batch: int, dtype: str, which: str) -> Callable[[], None]:
    """Return the function that one candidate runs in a round."""
    model, x = network(name, which), images(name, batch)
    if kind == "training step":
        run = step(model.train(), x, dtype)
    else:
        model = model.eval().to(DTYPES[dtype])
        run = forward(senet.optimize(model)[0] if which.endswith("optimized") else model, x, dtype)
    choice = "reference" if which.endswith("reference") else "compiled"

    def chosen() -> None:
        with using(choice):
            run()

    return chosen


def memory(name: str, batch: int) -> dict[str, Any]:
    x, found = images(name, batch), {}
    for which in ("plain", "SE", "plain, reference", "SE, reference"):
        with using("reference" if which.endswith("reference") else "compiled"):
            found[which] = saved_bytes(network(name, which).train(), x)
    return {
        "case": f"saved activations, {name}, batch {batch}",
        "bytes": found,
        "SE / plain": found["SE"] / found["plain"],
    }


# --- kernel passes ----------------------------------------------------------------------------------------------------


def roofline(repeats: int) -> list[dict[str, Any]]:
    """Measure the bandwidth of forward passes (3 reads, 1 write) and backward passes (7 feature maps), against `a + b
    -> c`.

    The passes allocate their results, and the process keeps freed memory. Otherwise most of a pass over a large feature
    map is the operating system's time for zeroed pages. So this measurement comes last.
    """
    keep_freed_memory()
    bandwidth = measured_bandwidth(repeats)
    rows: list[dict[str, Any]] = [{"case": "memory bandwidth", "GB/s": bandwidth / 1e9, "share": 1.0}]
    for dtype in DTYPES.values():
        for channels, side in ((256, 56), (512, 28), (1024, 14), (2048, 7)):
            x, shortcut, dy = (
                torch.randn(8, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
                for _ in range(3)
            )
            hidden = channels // 16
            norm = (torch.rand(channels), torch.rand(channels))
            layers = tuple(
                torch.randn(*size) / size[-1] ** 0.5  # as in a network: a gate at 1e-38 would be slow arithmetic
                for size in ((hidden, channels), (hidden,), (channels, hidden), (channels,))
            )
            arguments = (*norm, None, None, *layers, True, 1e-5, 0)
            y, _, saved = bn_se_add_relu(x, shortcut, *arguments)
            shape = f"8x{channels}x{side}x{side} {str(dtype).removeprefix('torch.')}"
            forward = best(lambda: bn_se_add_relu(x, shortcut, *arguments), repeats)  # noqa: B023
            backward = best(lambda: backward_of(dy, x, y, saved, *arguments), repeats)  # noqa: B023
            for kind, maps, taken in (("forwards", 4, forward), ("backwards", 7, backward)):
                speed = maps * x.nbytes / taken
                row = {"case": f"{kind}, {shape}", "ms": taken * 1e3, "maps": maps}
                rows.append({**row, "GB/s": speed / 1e9, "share": speed / bandwidth})
    return rows


def keep_freed_memory() -> None:
    trim_threshold, mmap_threshold, never = -1, -3, 1 << 30  # malloc.h
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(trim_threshold, never)
        libc.mallopt(mmap_threshold, never)


def measured_bandwidth(repeats: int) -> float:
    """Return the bytes per second of `a + b -> c` for tensors far larger than the caches."""
    a, b, c = (torch.ones(32 << 20) for _ in range(3))
    return 3 * a.nbytes / best(lambda: torch.add(a, b, out=c), repeats)


def best(run: Callable[[], Any], repeats: int) -> float:
    run()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


# --- the report -------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    lines = ["# Speed", "", *(f"- {key}: {value}" for key, value in result["machine"].items()), ""]
    lines += ["## Ratios of times (median of fresh processes, least and greatest)", ""]
    lines += ["| case | ratio | median | least .. greatest | processes | ms | ms |", "|---|---|---|---|---|---|---|"]
    for row in result["cases"]:
        lines.append(
            f"| {row['case']} | {row['of']} | {row['ratio']:.3f} | {row['least']:.3f} .. {row['greatest']:.3f} | "
            f"{row['processes']} | {row['first_ms']:.1f} | {row['second_ms']:.1f} |"
        )
    lines += ["", "## Saved activations", "", "| case | candidate | MB |", "|---|---|---|"]
    for row in result["memory"]:
        lines += [f"| {row['case']} | {name} | {size / 1e6:.1f} |" for name, size in row["bytes"].items()]
        lines.append(f"| {row['case']} | SE / plain | {row['SE / plain']:.4f} |")
    lines += ["", "## Kernel passes (best of the repeats)", ""]
    lines += ["| pass | ms | GB/s | share of bandwidth |", "|---|---|---|---|"]
    lines += [
        f"| {row['case']} | {row.get('ms', 0):.2f} | {row['GB/s']:.1f} | {row['share']:.0%} |"
        for row in result["roofline"]
    ]
    return "\n".join(lines) + "\n"


Case = tuple[str, str, int, str]


def plan(quick: bool, everything: bool) -> list[Case]:
    """Return the cases to measure, the most important first: kind, network, batch, type."""
    train, infer = "training step", "inference"
    cases = [(train, "resnet50_v1_5", 8, "float32"), (infer, "resnet50_v1_5", 1, "float32")]
    if not quick:
        cases += [(infer, "resnet50_v1_5", 8, "float32"), (train, "cifar_resnet20", 128, "float32")]
    if everything:
        cases += [(train, "resnet50_v1_5", b, d) for b, d in ((8, "bf16"), (32, "float32"), (32, "bf16"))]
        cases += [(infer, "resnet50_v1_5", b, d) for b, d in ((1, "bf16"), (8, "bf16"), (32, "float32"))]
        for name in ("resnext50_32x4d_v1_5", "mobilenet_v1"):
            cases += [(kind, name, 8, "float32") for kind in (train, infer)]
        cases += [(infer, "cifar_resnet20", 128, "float32"), (train, "cifar_resnet20", 128, "bf16")]
    return cases


def pairs(case: Case, quick: bool) -> list[tuple[str, str]]:
    """Return the ratios of a case, with timm where timm has the network."""
    plain, attentive, _ = NETWORKS[case[1]]
    known = {"timm plain": plain, "timm SE": attentive}
    found = [
        p
        for p in (TRAINING if case[0] == "training step" else INFERENCE)
        if all(known.get(w, "") is not None for w in p)
    ]
    return found[:2] if quick else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two cases, two processes a ratio")
    parser.add_argument("--all", action="store_true", help="every case; hours")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--processes", type=int, default=5, help="fresh processes a ratio")
    parser.add_argument("--seconds", type=float, default=6.0, help="of turns in each, at least three turns")
    parser.add_argument("--only", default="", help="the parts whose names contain this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed"))
    parser.add_argument("--child", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        kind, name, batch, dtype, *two = options.child
        runs = [candidate(kind, name, int(batch), dtype, which) for which in two]
        print(json.dumps(in_turns(*runs, seconds=options.seconds, least=3)))
        return
    result = earlier(options.out) if options.only else {"cases": [], "memory": [], "roofline": []}
    result["machine"] = machine(options.threads) | {"timm": timm.__version__}
    if options.only in "memory":
        result["memory"] = [memory(n, 2 if options.quick else 8) for n in list(NETWORKS)[: 1 if options.quick else 4]]
    processes = 2 if options.quick else options.processes
    for case in plan(options.quick, options.all):
        title = f"{case[0]}, {case[1]}, batch {case[2]}, {case[3]}"
        for two in pairs(case, options.quick) if options.only in title else ():
            words = [
                "--child",
                *map(str, case),
                *two,
                "--threads",
                str(options.threads),
                "--seconds",
                str(options.seconds),
            ]
            found = [child(str(HERE), words, threads=options.threads) for _ in range(processes)]
            row = {
                "case": title,
                "of": " / ".join(two),
                **ratio([f for f in found if f]),
                "date": result["machine"]["date"],
            }
            print(json.dumps(row), flush=True)
            others = [r for r in result["cases"] if (r["case"], r["of"]) != (row["case"], row["of"])]
            result["cases"] = [*others, row]
            write(result, options.out)
    if options.only in "passes":
        result["roofline"] = roofline(5 if options.quick else 60)
    write(result, options.out)


def earlier(out: Path) -> dict[str, Any]:
    path = out.with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else {"cases": [], "memory": [], "roofline": []}


def write(result: dict[str, Any], out: Path) -> None:
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    out.with_suffix(".md").write_text(markdown(result))


if __name__ == "__main__":
    main()
