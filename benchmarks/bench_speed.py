"""Measure what Squeeze-and-Excitation costs in time and memory: training steps, inference, kernel passes.

    python benchmarks/bench_speed.py [--quick] [--threads 2] [--seconds 600] [--only NAME] [--out benchmarks/speed]

All candidates of a case run in turn, round after round, so that what else the machine does hits all of them; a ratio
is the median over the rounds of the ratio within a round, with the quartiles. Weights, gammas, statistics and gates
are random: zeros would hide work. Writes `<out>.json` and `<out>.md`; with `--only`, the parts whose names contain it
are measured again ("memory" and "passes" are parts too) and the others stay as they stand there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import nn

import senet
from senet.ops import choose, describe, tail, tail_backward

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Case:
    """Candidates that are measured in turn."""

    name: str
    candidates: dict[str, Callable[[], Any]]
    ratios: list[tuple[str, str]]
    seconds: dict[str, list[float]] = field(default_factory=dict)


@contextmanager
def kernels(choice: str) -> Iterator[None]:
    """Run on the compiled kernel or on the reference."""
    os.environ["SENET_KERNELS"] = choice
    choose.cache_clear()
    choose()
    try:
        yield
    finally:
        del os.environ["SENET_KERNELS"]
        choose.cache_clear()


def randomised(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.2, 1.0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_().mul_(0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.to(memory_format=torch.channels_last)


def measure(case: Case, budget: float, least: int) -> None:
    for run in case.candidates.values():
        run()
    started = time.perf_counter()
    case.seconds = {name: [] for name in case.candidates}
    while time.perf_counter() - started < budget or len(next(iter(case.seconds.values()))) < least:
        for name, run in case.candidates.items():
            before = time.perf_counter()
            run()
            case.seconds[name].append(time.perf_counter() - before)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def summary(case: Case) -> dict[str, Any]:
    found: dict[str, Any] = {
        "case": case.name,
        "rounds": len(next(iter(case.seconds.values()))),
        "ms": {},
        "ratios": {},
    }
    for name, values in case.seconds.items():
        low, middle, high = quartiles(values)
        found["ms"][name] = {"median": middle * 1e3, "q1": low * 1e3, "q3": high * 1e3, "min": min(values) * 1e3}
    for top, bottom in case.ratios:
        pairs = zip(case.seconds[top], case.seconds[bottom], strict=True)
        low, middle, high = quartiles([a / b for a, b in pairs])
        found["ratios"][f"{top} / {bottom}"] = {"median": middle, "q1": low, "q3": high}
    return found


# --- networks -----------------------------------------------------------------------------------------------------

NETWORKS = {  # ours with SE: timm's plain, timm's SE, pixels
    "resnet50_v1_5": ("resnet50", "seresnet50", 224),
    "resnext50_32x4d_v1_5": ("resnext50_32x4d", "seresnext50_32x4d", 224),
    "mobilenet_v1": ("mobilenetv1_100", None, 224),
    "cifar_resnet20": (None, None, 32),
}


def networks(name: str) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    plain, attentive, _ = NETWORKS[name]
    made = {"timm plain": timm.create_model(plain)} if plain else {}
    made |= {"timm SE": timm.create_model(attentive)} if attentive else {}
    made |= {"plain": senet.create_model(name), "SE": senet.create_model(f"se_{name}")}
    return {key: randomised(model) for key, model in made.items()}


def images(name: str, batch: int) -> torch.Tensor:
    pixels = NETWORKS[name][2]
    return torch.randn(batch, 3, pixels, pixels).contiguous(memory_format=torch.channels_last)


def title(kind: str, name: str, batch: int, dtype: str) -> str:
    return f"{kind}, {name}, batch {batch}, {dtype}"


def training(name: str, batch: int, dtype: str) -> Case:
    x, labels = images(name, batch), torch.randint(0, 10, (batch,))

    def step(model: nn.Module, choice: str) -> Callable[[], None]:
        def run() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                loss = F.cross_entropy(model(x), labels)
            loss.backward()
            model.zero_grad(set_to_none=True)

        return under(choice, run)

    made = {key: model.train() for key, model in networks(name).items()}
    runs = {key: step(model, "compiled") for key, model in made.items()}
    runs |= {f"{key}, reference": step(made[key], "reference") for key in ("plain", "SE")}
    ratios = [("SE", key) for key in runs if key != "SE"] + [("SE, reference", "plain, reference")]
    return Case(title("training step", name, batch, dtype), runs, ratios)


def inference(name: str, batch: int, dtype: str) -> Case:
    x = images(name, batch).to(DTYPES[dtype])

    def run(model: nn.Module) -> Callable[[], None]:
        def forward() -> None:
            with torch.inference_mode():
                model(x)

        return forward

    made = {key: model.eval() for key, model in networks(name).items()}
    made |= {f"{key}, optimized": senet.optimize(made[key])[0] for key in ("plain", "SE")}
    ratios = [("SE, optimized", key) for key in made if key != "SE, optimized"]
    return Case(
        title("inference", name, batch, dtype),
        {key: run(model.to(DTYPES[dtype])) for key, model in made.items()},
        ratios,
    )


def under(choice: str, run: Callable[[], None]) -> Callable[[], None]:
    """`run` on that kernel. The switch itself takes microseconds of a step's milliseconds."""

    def chosen() -> None:
        if os.environ.get("SENET_KERNELS") != choice:
            os.environ["SENET_KERNELS"] = choice
            choose.cache_clear()
        run()

    return chosen


def saved_bytes(model: nn.Module, x: torch.Tensor) -> int:
    sizes: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = model(x)
    del kept
    return sum(sizes.values())


def memory(name: str, batch: int) -> dict[str, Any]:
    made, x = {key: model.train() for key, model in networks(name).items()}, images(name, batch)
    with kernels("compiled"):
        found = {key: saved_bytes(model, x) for key, model in made.items()}
    with kernels("reference"):
        found |= {f"{key}, reference": saved_bytes(made[key], x) for key in ("plain", "SE")}
    return {
        "case": f"saved activations, {name}, batch {batch}",
        "bytes": found,
        "SE / plain": found["SE"] / found["plain"],
    }


# --- kernel passes ----------------------------------------------------------------------------------------------------


def roofline(repeats: int) -> list[dict[str, Any]]:
    """Bytes that forwards (read x twice, shortcut; write y) and backwards (7 maps) move, against `a + b -> c`.

    The results of the passes are allocated by them; freed memory is kept for this, since else most of a pass over a
    large map is the operating system's, which hands out zeroed pages. So this comes after all else.
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
            y, _, saved = tail(x, shortcut, *norm, None, None, *layers, True, 1e-5, 0)
            shape = f"8x{channels}x{side}x{side} {str(dtype).removeprefix('torch.')}"
            forward = best(lambda: tail(x, shortcut, *norm, None, None, *layers, True, 1e-5, 0), repeats)  # noqa: B023
            backward = best(lambda: tail_backward(dy, x, y, saved, *norm, *layers, True, 1e-5, 0), repeats)  # noqa: B023
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
    """Bytes a second of `a + b -> c`, far larger than the caches."""
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


def processor() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def markdown(result: dict[str, Any]) -> str:
    lines = ["# Speed", "", *(f"- {key}: {value}" for key, value in result["machine"].items()), ""]
    lines += ["## Ratios of times (median of rounds, quartiles)", "", "| case | ratio | median | quartiles | rounds |"]
    lines += ["|---|---|---|---|---|"]
    for case in result["cases"]:
        for name, r in case["ratios"].items():
            spread = f"{r['q1']:.3f} .. {r['q3']:.3f}"
            lines.append(f"| {case['case']} | {name} | {r['median']:.3f} | {spread} | {case['rounds']} |")
    lines += ["", "## Times, ms", "", "| case | candidate | median | quartiles | least |", "|---|---|---|---|---|"]
    for case in result["cases"]:
        for name, t in case["ms"].items():
            spread = f"{t['q1']:.1f} .. {t['q3']:.1f}"
            lines.append(f"| {case['case']} | {name} | {t['median']:.1f} | {spread} | {t['min']:.1f} |")
    lines += ["", "## Saved activations", "", "| case | candidate | MB |", "|---|---|---|"]
    for row in result["memory"]:
        lines += [f"| {row['case']} | {name} | {size / 1e6:.1f} |" for name, size in row["bytes"].items()]
        lines.append(f"| {row['case']} | SE / plain | {row['SE / plain']:.4f} |")
    lines += [
        "",
        "## Kernel passes (best of the repeats)",
        "",
        "| pass | ms | GB/s | share of bandwidth |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['case']} | {row.get('ms', 0):.2f} | {row['GB/s']:.1f} | {row['share']:.0%} |"
        for row in result["roofline"]
    ]
    return "\n".join(lines) + "\n"


def plan(quick: bool) -> list[tuple[str, Callable[[], Case]]]:
    """What to measure, by name, the most important first."""
    train, infer = "training step", "inference"
    main = [(train, "resnet50_v1_5", 8, d) for d in DTYPES]
    main += [(infer, "resnet50_v1_5", b, d) for b in (1, 8) for d in DTYPES]
    main += [(train, "cifar_resnet20", 128, d) for d in DTYPES]
    if not quick:
        main += [(train, "resnet50_v1_5", 32, d) for d in DTYPES] + [(infer, "resnet50_v1_5", 32, d) for d in DTYPES]
        for name in ("resnext50_32x4d_v1_5", "mobilenet_v1"):
            main += [(kind, name, 8, "float32") for kind in (train, infer)]
        main += [(infer, "cifar_resnet20", 128, "float32")]
    makers = {train: training, infer: inference}
    return [(title(*a), lambda a=a: makers[a[0]](*a[1:])) for a in main]  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, fewer rounds")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=600.0, help="for all cases together")
    parser.add_argument("--rounds", type=int, default=5, help="at least so many of each case")
    parser.add_argument("--only", default="", help="the parts whose names contain this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "processor": f"{processor()}, {os.cpu_count()} cores, {options.threads} threads",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, "
        f"senet {senet.__version__}",
        "kernel": describe(),
    }
    result = earlier(options.out) if options.only else {"cases": [], "memory": [], "roofline": []}
    result["machine"] = machine
    if options.only in "memory":
        result["memory"] = [memory("resnet50_v1_5", 2)] if options.quick else [memory(n, 8) for n in NETWORKS]
    wanted = [(name, make) for name, make in plan(options.quick) if options.only in name]
    budget = (60.0 if options.quick else options.seconds) / max(1, len(wanted))
    for name, make in wanted:
        case = make()
        measure(case, budget, least=2 if options.quick else options.rounds)
        found = {**summary(case), "date": machine["date"]}
        print(json.dumps(found["ratios"]), name, flush=True)
        result["cases"] = [other for other in result["cases"] if other["case"] != name] + [found]
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
