"""Measure the Triton back end on a GPU: equality first, then what SE costs in training and inference.

    python benchmarks/gpu.py [--minutes 8] [--out benchmarks/gpu]
    python benchmarks/gpu.py --rehearse        # all cases on the CPU, tiny, by Triton's interpreter

It needs torch and triton, and nothing else: `src` is found beside this folder. After each case it writes `<out>.json`
and `<out>.md`, so a run that is cut keeps what it has. Candidates run in turns, and a ratio is the median of the ratios
within a round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "src"))
REHEARSE = "--rehearse" in sys.argv
if REHEARSE:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from senet.fusion import accelerate, deferred, optimize  # noqa: E402
from senet.models.registry import MODELS  # noqa: E402
from senet.nn import epilogue  # noqa: E402
from senet.ops import bn_se_add_relu, triton, using  # noqa: E402
from senet.ops.activation_functions import ACTIVATIONS  # noqa: E402
from senet.ops.backend import backend_for  # noqa: E402
from senet.ops.bn_act_se import bn_act_se  # noqa: E402
from senet.ops.bn_act_se import definition as gated_definition  # noqa: E402
from senet.ops.bn_se_add_relu import definition  # noqa: E402

LAST = torch.channels_last
FUSED, EAGER = "triton", "reference"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What a run measures.

    Attributes:
        device: Where.
        networks: The networks with SE and without.
        gated: A network with norm, activation and SE in a row.
        batches: The batch of a training step, and a small one.
        side: Height and width of the images.
        maps: Feature maps of residual ends.
        rounds: Rounds of each comparison.
        inductor: Backend of `torch.compile`.
    """

    device: str
    networks: tuple[str, str]
    gated: str
    batches: tuple[int, int]
    side: int
    maps: tuple[tuple[int, int, int, int], ...]
    rounds: int
    inductor: str


ON_DEVICE = Sizes(
    device="cuda",
    networks=("se_resnet50_v1_5", "resnet50_v1_5"),
    gated="se_mobilenet_v1",
    batches=(128, 32),
    side=224,
    maps=((128, 256, 56, 56), (128, 512, 28, 28)),
    rounds=15,
    inductor="inductor",
)
ON_CPU = Sizes(
    device="cpu",
    networks=("se_cifar_resnet20", "cifar_resnet20"),
    gated="se_mobilenet_v1_025",
    batches=(2, 1),
    side=32,
    maps=((1, 16, 4, 4),),
    rounds=1,
    inductor="eager",
)


# --- figures ------------------------------------------------------------------------------------------------------


class Clock:
    """Times work on the device, or on the CPU in a rehearsal."""

    def __init__(self, sizes: Sizes) -> None:
        self.cuda = sizes.device == "cuda"
        self.rounds = sizes.rounds

    def once(self, run: Callable[[], Any]) -> float:
        """Seconds of one run."""
        if not self.cuda:
            before = time.perf_counter()
            run()
            return time.perf_counter() - before
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def in_turns(self, candidates: Mapping[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Seconds of each candidate in each round, after runs that warm up."""
        for run in candidates.values():
            for _ in range(3 if self.cuda else 0):
                run()
        taken: dict[str, list[float]] = {name: [] for name in candidates}
        for i in range(self.rounds):
            names = list(candidates)
            for name in names[i % len(names) :] + names[: i % len(names)]:
                taken[name].append(self.once(candidates[name]))
        return taken


def ratio(taken: Mapping[str, list[float]], first: str, second: str) -> float:
    return round(statistics.median(a / b for a, b in zip(taken[first], taken[second], strict=True)), 4)


def milliseconds(taken: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: round(1e3 * statistics.median(times), 3) for name, times in taken.items()}


# --- networks -----------------------------------------------------------------------------------------------------


def network(name: str, sizes: Sizes) -> nn.Module:
    """A network with random gammas, biases, running statistics and gates, since zeros hide work."""
    torch.manual_seed(0)
    spec = MODELS[name]
    if REHEARSE:
        spec = replace(spec, **({"depth": 1} if "cifar" in name else {}))
    model = spec.build()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.2, 1.0)
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_().mul_(0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model.to(sizes.device, memory_format=LAST)  # type: ignore[call-overload]


def images(batch: int, sizes: Sizes) -> Tensor:
    return torch.randn(batch, 3, sizes.side, sizes.side, device=sizes.device).contiguous(memory_format=LAST)


def training_step(model: nn.Module, batch: int, sizes: Sizes, kernels: str) -> Callable[[], None]:
    """A step with AMP in bfloat16 and SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    x = images(batch, sizes)
    labels = torch.zeros(batch, dtype=torch.long, device=sizes.device)

    def step() -> None:
        with using(kernels):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(sizes.device, torch.bfloat16):
                loss = F.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()

    return step


# --- cases --------------------------------------------------------------------------------------------------------


def equality(sizes: Sizes, _clock: Clock) -> Figures:
    """Result and gradients against the definition in float64: the largest error as a share of each one's scale."""
    shapes = ((2, 3, 5, 7), (2, 17, 7, 7)) if REHEARSE else SHAPES
    worst = dict.fromkeys(LIMITS, 0.0)
    for training in (True, False):
        for dtype in LIMITS:
            for shape in shapes:
                worst[dtype] = max(worst[dtype], residual_error(shape, dtype, training, sizes))
        for activation in range(len(ACTIVATIONS)):
            dtype, shape = list(LIMITS)[activation % 3], shapes[(activation + training) % len(shapes)]
            worst[dtype] = max(worst[dtype], gated_error(shape, dtype, training, activation, sizes))
    passed = all(found <= LIMITS[dtype] for dtype, found in worst.items())
    return {**{str(dtype): found for dtype, found in worst.items()}, "passed": passed}


SHAPES = ((2, 3, 5, 7), (3, 17, 1, 1), (8, 64, 56, 56), (4, 2048, 7, 7))
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


def vectors(c: int, sizes: Sizes) -> list[Tensor]:
    hidden = max(1, c // 16)
    shapes = ((c,), (c,), (c,), (c,), (hidden, c), (hidden,), (c, hidden), (c,))
    found = [torch.randn(s, device=sizes.device) / (s[-1] ** 0.5 if len(s) > 1 else 1) for s in shapes]
    found[3] = found[3].abs() + 0.5
    return found


def a_map(shape: tuple[int, ...], dtype: torch.dtype, sizes: Sizes) -> Tensor:
    return torch.randn(shape, device=sizes.device).to(dtype).contiguous(memory_format=LAST)


def residual_error(shape: tuple[int, ...], dtype: torch.dtype, training: bool, sizes: Sizes) -> float:
    torch.manual_seed(1)
    tensors = [a_map(shape, dtype, sizes), a_map(shape, dtype, sizes), *vectors(shape[1], sizes)]
    with using(FUSED):
        assert backend_for(tensors[0]) is not None, triton.describe()
        sign = bn_se_add_relu(*tensors, training, 1e-5, 0)[0] > 0
    same = sign == (definition(*[t.double() for t in tensors], training, 1e-5, 0) > 0)
    dy = (torch.randn(shape, device=sizes.device) * same).to(dtype).contiguous(memory_format=LAST)
    return error(
        lambda *t: bn_se_add_relu(*t, training, 1e-5, 0)[0], lambda *t: definition(*t, training, 1e-5, 0), tensors, dy,
    )  # fmt: skip


def gated_error(shape: tuple[int, ...], dtype: torch.dtype, training: bool, activation: int, sizes: Sizes) -> float:
    torch.manual_seed(1)
    options = {"training": training, "eps": 1e-3, "activation": activation, "hidden_activation": 1, "gate": 0}
    tensors = [a_map(shape, dtype, sizes), *vectors(shape[1], sizes)]
    return error(
        lambda *t: bn_act_se(*t, **options), lambda *t: gated_definition(*t, **options)[0], tensors,
        a_map(shape, dtype, sizes),
    )  # fmt: skip


def error(operator: Any, exact: Any, tensors: list[Tensor], dy: Tensor) -> float:
    """The largest error of result and gradients, where it is beyond four times the definition's in float32."""

    def run(compute: Any, kind: torch.dtype | None, kernels: str) -> list[Tensor]:
        leaves = [(t if kind is None else t.to(kind)).detach().requires_grad_() for t in tensors]
        with using(kernels):
            y = compute(*leaves)
            gradients = torch.autograd.grad(y, leaves, dy.to(y.dtype), allow_unused=True)
        return [y.detach(), *(g for i, g in enumerate(gradients) if g is not None and i not in of_statistics)]

    first = next(i for i, t in enumerate(tensors) if t.ndim == 1)
    of_statistics = (first + 2, first + 3)
    ours, right, plain = run(operator, None, FUSED), run(exact, torch.float64, EAGER), run(exact, None, EAGER)
    terms = float(dy.double().abs().sum()) / dy.shape[1]
    worst = 0.0
    for mine, true, usual in zip(ours, right, plain, strict=True):
        scale = float(true.abs().max().clamp_min(1e-3 if mine.ndim == 4 else max(1e-3, 1e-2 * terms)))
        off, plainly = (float((t.double() - true).abs().max()) / scale for t in (mine, usual))
        worst = max(worst, 0.0 if off <= 4 * plainly and mine.dtype is torch.float32 else off)
    return worst


def bandwidth(sizes: Sizes, clock: Clock) -> Figures:
    """Bytes a second of the operator's passes, as a share of those of a copy."""
    found: Figures = {}
    for shape in sizes.maps:
        x, shortcut = (a_map(shape, torch.bfloat16, sizes).requires_grad_() for _ in range(2))
        dy, copy = (a_map(shape, torch.bfloat16, sizes) for _ in range(2))
        tensors = [v.requires_grad_(i not in (2, 3)) for i, v in enumerate(vectors(shape[1], sizes))]
        size = x.numel() * x.element_size()

        def forward(inputs: tuple[Any, ...] = (x, shortcut, *tensors)) -> Tensor:
            with using(FUSED):
                return bn_se_add_relu(*inputs, True, 1e-5, 0)[0]

        y, leaves = forward(), [x, shortcut, *(t for t in tensors if t.requires_grad)]

        def backward(y: Tensor = y, leaves: list[Tensor] = leaves, dy: Tensor = dy) -> None:
            with using(FUSED):
                torch.autograd.grad(y, leaves, dy, retain_graph=True)

        runs = {"copy": lambda a=copy, b=dy: a.copy_(b), "forward": torch.no_grad()(forward), "backward": backward}
        times = {name: statistics.median(t) for name, t in clock.in_turns(runs).items()}
        rates = {name: n * size / times[name] for name, n in (("copy", 2), ("forward", 4), ("backward", 7))}
        found["x".join(map(str, shape))] = {
            "copy GB/s": round(rates["copy"] / 1e9, 1),
            "forward": round(rates["forward"] / rates["copy"], 3),
            "backward": round(rates["backward"] / rates["copy"], 3),
        }
    found["least share"] = min(f[way] for f in found.values() for way in ("forward", "backward"))
    return found


def training(sizes: Sizes, clock: Clock, *, small: bool = False) -> Figures:
    """Training steps of the network with SE and without, fused and not."""
    with_se, plain = sizes.networks
    batch = sizes.batches[small]
    candidates = {
        "SE fused": training_step(network(with_se, sizes), batch, sizes, FUSED),
        "SE eager": training_step(network(with_se, sizes), batch, sizes, EAGER),
    }
    if not small:
        candidates |= {
            "plain fused": training_step(network(plain, sizes), batch, sizes, FUSED),
            "plain eager": training_step(network(plain, sizes), batch, sizes, EAGER),
        }
    taken = clock.in_turns(candidates)
    ratios = {f"SE fused / {other}": ratio(taken, "SE fused", other) for other in candidates if other != "SE fused"}
    return {"batch": batch, "ms": milliseconds(taken), **ratios}


def compiled(sizes: Sizes, clock: Clock) -> Figures:
    """A training step with the operators against one by Inductor."""
    model = network(sizes.networks[0], sizes)
    batch = sizes.batches[0]
    candidates = {
        "SE fused": training_step(network(sizes.networks[0], sizes), batch, sizes, FUSED),
        "SE compiled": training_step(torch.compile(model, backend=sizes.inductor), batch, sizes, EAGER),
    }
    taken = clock.in_turns(candidates)
    return {"batch": batch, "ms": milliseconds(taken), "ratio": ratio(taken, "SE fused", "SE compiled")}


def gated(sizes: Sizes, clock: Clock) -> Figures:
    """A training step of a network with norm, activation and SE in a row, after `senet.accelerate`."""
    model = network(sizes.gated, sizes)
    report = str(accelerate(model)).splitlines()[0]
    candidates = {kernels: training_step(model, sizes.batches[0], sizes, kernels) for kernels in (FUSED, EAGER)}
    taken = clock.in_turns(candidates)
    figure = ratio(taken, FUSED, EAGER)
    return {"network": sizes.gated, "report": report, "ms": milliseconds(taken), "fused / eager": figure}


def inference(sizes: Sizes, clock: Clock) -> Figures:
    """Optimized networks with SE and without, in bfloat16."""
    x = images(sizes.batches[0], sizes).bfloat16()
    candidates = {}
    for label, name in zip(("SE", "plain"), sizes.networks, strict=True):
        model, _ = optimize(network(name, sizes).bfloat16().eval())
        for kernels in (FUSED, EAGER):
            candidates[f"{label} {kernels}"] = inferred(model, x, kernels)
    taken = clock.in_turns(candidates)
    return {
        "batch": len(x),
        "ms": milliseconds(taken),
        "SE / plain": ratio(taken, f"SE {FUSED}", f"plain {FUSED}"),
        "SE fused / SE eager": ratio(taken, f"SE {FUSED}", f"SE {EAGER}"),
    }


def inferred(model: nn.Module, x: Tensor, kernels: str) -> Callable[[], None]:
    def run() -> None:
        with using(kernels), torch.inference_mode():
            model(x)

    return run


def memory(sizes: Sizes, _clock: Clock) -> Figures:
    """Bytes that a forward pass keeps for the backward pass."""
    found: Figures = {}
    for label, name in zip(("SE", "plain"), sizes.networks, strict=True):
        for kernels in (FUSED, EAGER):
            model = network(name, sizes).train()
            own = {p.untyped_storage().data_ptr() for p in model.parameters()}
            kept: dict[int, int] = {}

            def pack(t: Tensor, kept: dict[int, int] = kept) -> Tensor:
                kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
                return t

            saved = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
            with using(kernels), torch.autocast(sizes.device, torch.bfloat16), saved:
                y = model(images(sizes.batches[1], sizes))
            found[f"{label} {kernels} MB"] = round(sum(n for p, n in kept.items() if p not in own) / 1e6, 2)
            del y
    found["SE fused / plain fused"] = round(found[f"SE {FUSED} MB"] / found[f"plain {FUSED} MB"], 4)
    found["SE fused / SE eager"] = round(found[f"SE {FUSED} MB"] / found[f"SE {EAGER} MB"], 4)
    return found


def graph(sizes: Sizes, _clock: Clock) -> Figures:
    """Capture forward and backward pass of the operator in a CUDA graph, replay it on other numbers, and compare."""
    if not torch.cuda.is_available():
        return {"skipped": "needs a GPU"}
    shape = sizes.maps[-1]
    x, shortcut = (a_map(shape, torch.bfloat16, sizes).requires_grad_() for _ in range(2))
    tensors = [v.requires_grad_(i not in (2, 3)) for i, v in enumerate(vectors(shape[1], sizes))]
    leaves = [x, shortcut, *(t for t in tensors if t.requires_grad)]
    dy = a_map(shape, torch.bfloat16, sizes)

    def run() -> list[Tensor]:
        with using(FUSED):
            y = bn_se_add_relu(x, shortcut, *tensors, True, 1e-5, 0)[0]
            return [y, *torch.autograd.grad(y, leaves, dy)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        captured = run()
    with torch.no_grad():
        x.copy_(a_map(shape, torch.bfloat16, sizes))
    recorded.replay()
    torch.cuda.synchronize()
    return {"equal": all(torch.equal(a, b) for a, b in zip(captured, run(), strict=True))}


def two_processes(sizes: Sizes, _clock: Clock) -> Figures:
    """Two processes train with DistributedDataParallel: NCCL on two GPUs, gloo in a rehearsal."""
    if not REHEARSE and torch.cuda.device_count() < 2:
        return {"skipped": f"{torch.cuda.device_count()} GPU"}
    import torch.multiprocessing as processes

    with contextlib.closing(__import__("socket").socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    queue = processes.get_context("spawn").SimpleQueue()
    processes.start_processes(_rank, args=(port, sizes, queue), nprocs=2, start_method="spawn")
    sums = [queue.get() for _ in range(2)]
    return {"sum of parameters by process": sums, "equal": sums[0] == sums[1]}


def _rank(rank: int, port: int, sizes: Sizes, queue: Any) -> None:
    import torch.distributed as distributed

    if not REHEARSE:
        torch.cuda.set_device(rank)
        sizes = replace(sizes, device="cuda")
    distributed.init_process_group(
        "gloo" if REHEARSE else "nccl", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )  # fmt: skip
    any_size()
    model = nn.parallel.DistributedDataParallel(network(sizes.networks[0], sizes))
    torch.manual_seed(rank)
    step = training_step(model, sizes.batches[1] + 1, sizes, FUSED)
    for _ in range(1 if REHEARSE else 3):
        step()
    queue.put(float(sum(p.detach().double().sum() for p in model.parameters())))
    distributed.destroy_process_group()


Case = Callable[[Sizes, Clock], Figures]
CASES: dict[str, Case] = {
    "equality": equality,
    "bandwidth": bandwidth,
    "training": training,
    "small batch": lambda sizes, clock: training(sizes, clock, small=True),
    "inference": inference,
    "memory": memory,
    "CUDA graph": graph,
    "two processes": two_processes,
    "gated": gated,
    "compiled": compiled,
}

GOALS: tuple[tuple[str, str, str, float], ...] = (
    ("training", "SE fused / SE eager", "at most", 0.75),
    ("training", "SE fused / plain eager", "at most", 0.95),
    ("training", "SE fused / plain fused", "at most", 1.03),
    ("compiled", "ratio", "at most", 0.97),
    ("bandwidth", "least share", "at least", 0.80),
    ("small batch", "SE fused / SE eager", "at most", 1.00),
    ("inference", "SE / plain", "at most", 1.08),
    ("memory", "SE fused / plain fused", "at most", 1.02),
)


# --- the run ------------------------------------------------------------------------------------------------------


def any_size() -> None:
    """In a rehearsal, let small feature maps through the operators, each as few programs."""
    if REHEARSE:
        from senet.ops.triton import plan

        plan.PROGRAMS = 1  # type: ignore[misc]
        epilogue.GPU_MIN_ELEMENTS = 0  # type: ignore[misc]
        for limits in (epilogue.MIN_ELEMENTS, deferred.MIN_ELEMENTS):
            limits.update(dict.fromkeys(limits, 0))  # type: ignore[call-overload]


def machine() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    with contextlib.suppress(ImportError):
        versions["triton"] = __import__("triton").__version__
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="minutes"),
        "device": "CPU, Triton's interpreter" if REHEARSE else torch.cuda.get_device_name(),
        "devices": str(0 if REHEARSE else torch.cuda.device_count()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "back end": triton.describe(),
    }


def page(kept: Figures) -> str:
    """The Markdown of all figures so far."""
    lines = ["# The Triton back end on a GPU", ""]
    if REHEARSE:
        lines += [
            "**A rehearsal, not a measurement.** No GPU could be had. The script ran on a CPU by Triton's interpreter,",
            "with tiny networks. Times and ratios say nothing about a GPU, so this page has none.",
            "",
            "`python benchmarks/gpu.py --rehearse` wrote it, and `python benchmarks/gpu.py` will measure.",
        ]
    else:
        lines += ["`python benchmarks/gpu.py` wrote this page."]
    lines += ["", *(f"- {name}: {value}" for name, value in kept["machine"].items())]
    lines += ["", "| case | measure | goal | figure |", "|---|---|---|---|"]
    for case, measure, word, goal in GOALS:
        figure = kept["cases"].get(case, {}).get(measure)
        if figure is None or REHEARSE:
            shown = "not measured"
        else:
            met = figure <= goal if word == "at most" else figure >= goal
            shown = f"{figure} ({'met' if met else 'missed'})"
        lines.append(f"| {case} | {measure} | {word} {goal} | {shown} |")
    lines += ["", "| case | figures |", "|---|---|"]
    for case, figures in kept["cases"].items():
        outcome = next((f"{k}: {figures[k]}" for k in ("error", "skipped") if k in figures), "ran")
        if not REHEARSE or case == "equality":
            outcome = ", ".join(f"{name}: {value}" for name, value in figures.items())
        lines.append(f"| {case} | {outcome.replace('|', '/')} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="run all cases on the CPU, tiny, by the interpreter")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case starts after these (default: 8)")
    parser.add_argument("--out", type=Path, default=HERE / "gpu", help="files to write, without their suffix")
    parser.add_argument("--only", choices=CASES, action="append", help="a case to run; may be repeated (default: all)")
    options = parser.parse_args()
    if not REHEARSE and not torch.cuda.is_available():
        parser.error("no GPU here; --rehearse runs all cases on the CPU")
    sizes = ON_CPU if REHEARSE else ON_DEVICE
    ends = time.monotonic() + 60 * options.minutes
    any_size()
    with using(FUSED):
        kept: Figures = {"rehearsal": REHEARSE, "machine": machine(), "cases": {}}
    torch.backends.cudnn.benchmark = True
    clock = Clock(sizes)
    for name in options.only or CASES:
        started = time.monotonic()
        try:
            figures = CASES[name](sizes, clock) if started < ends else {"skipped": "out of time"}
        except Exception as failure:  # the other cases still tell something
            traceback.print_exc()
            figures = {"error": f"{type(failure).__name__}: {failure}"[:500]}
        kept["cases"][name] = {**figures, "seconds": round(time.monotonic() - started, 1)}
        options.out.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
        options.out.with_suffix(".md").write_text(page(kept))
        print(name, json.dumps(kept["cases"][name]), flush=True)
        if sizes.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
