"""Retrofit every convolutional network of timm, torchvision and segmentation_models_pytorch, see retrofit_zoo.md.

    python benchmarks/retrofit_zoo.py                     # all that the cache doesn't know yet, then the tables
    python benchmarks/retrofit_zoo.py --only 'timm:res*'  # some of them
    python benchmarks/retrofit_zoo.py --again --only ...  # these anew
    python benchmarks/retrofit_zoo.py --report            # the tables alone

One worker process runs a chunk of networks and appends a line of JSON for each to the cache, so that a run can be
broken off at any time, and a crash costs one network. It takes about one CPU second a network, and `pip install timm
segmentation_models_pytorch`.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import zoo_networks
import zoo_report
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from senet.errors import SenetError
from senet.graph.flow import is_product
from senet.graph.trace import Graph, trace
from senet.surgery import Report, apply_insertion_points, plan, trainable

HERE = Path(__file__).parent
CACHE = HERE / "retrofit_zoo" / "cache.jsonl"
CHUNK = 50
SECONDS_PER_NETWORK = 120
TOO_LARGE = 300_000_000
CHEAP_SECONDS = 2.0


class _WithoutInit(TorchDispatchMode):
    """Skip random initialisation, which takes longer than everything else and is overwritten anyway."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("uniform_", "normal_", "erfinv_"):
            return args[0].zero_()  # zeros, because torch draws a truncated normal again until it is in range
        return func(*args, **(kwargs or {}))


def randomise(model: nn.Module) -> None:
    """Draw random weights: no gain, bias or statistic is zero or one, and feature maps keep their scale."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, (2 / max(1, parameter[0].numel())) ** 0.5, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            else:
                parameter.uniform_(0.5, 1.5, generator=generator)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)


def settle(model: nn.Module, network: zoo_networks.Network, size: tuple[int, ...]) -> list[Tensor]:
    """Return the outputs in training mode. The running statistics then nearly follow this batch.

    So outputs of hundreds of layers neither vanish nor explode in evaluation mode.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    outputs = run(model.train(), network, size)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if norm.running_var is not None:
            norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.8, 1.25)).clamp_(1e-3)
    return outputs


def run(model: nn.Module, network: zoo_networks.Network, size: tuple[int, ...], *, gradient: bool = False) -> Any:
    """Run one fixed batch with fixed random numbers, and return the floating-point outputs."""
    torch.manual_seed(1)
    inputs = network.inputs(size, training=model.training)
    with torch.set_grad_enabled(gradient):
        leaves = tree_leaves(model(*inputs))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def identical(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether outputs are equal bit for bit. A NaN equals itself."""
    return len(before) == len(after) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
        for a, b in zip(before, after, strict=True)
    )


def overlapping_convolutions(model: nn.Module) -> int:
    """Count the convolutions with a kernel larger than their stride. A patch embedding is none."""
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d))
    return sum(any(k > s for k, s in zip(m.kernel_size, m.stride, strict=True)) for m in convolutions)


def attention_modules(graph: Graph) -> int:
    """Count the modules that multiply two feature maps as matrices, in more than one row and column."""
    return len({value.call for value in graph.values if is_product(value) and min(value.shape[-2:]) > 1})


def examine(network: zoo_networks.Network, record: dict[str, Any]) -> None:
    """Return the record of one network."""
    model = None
    try:
        with torch.device("meta"):
            bare = network.build()
    except Exception:  # it needs real numbers while it is built
        bare = model = real(network)
    record["params"] = sum(p.numel() for p in bare.parameters())
    record["convolutions"] = overlapping_convolutions(bare)
    if not record["convolutions"]:
        return
    seen: list[Graph] = []
    with mock.patch.object(
        sys.modules["senet.surgery.retrofitting"], "trace", lambda *args: seen.append(trace(*args)) or seen[0]
    ):
        try:
            report = planned(bare, record)
        except SenetError:
            if seen or model is not None:
                raise
            model = real(network)  # it needs real numbers while it runs
            report = planned(model, record)
    record["attentions"] = attention_modules(seen[0])
    if report is None or not report.inserted or zoo_report.kind(record) == zoo_report.TRANSFORMER:
        return
    if record["params"] <= TOO_LARGE:
        compare(model if model is not None else real(network), network, report, record)


def real(network: zoo_networks.Network) -> nn.Module:
    """Build the network with memory for its weights."""
    with _WithoutInit():
        return network.build()


def planned(model: nn.Module, record: dict[str, Any]) -> Report | None:
    """Record the plan of `senet.retrofit`, or its refusal."""
    start = time.perf_counter()
    try:
        report = plan(model)
    except SenetError as error:
        if "can't run on" in str(error):
            raise
        record |= {"insertion_points": 0, "refused": str(error)}
        return None
    record |= {
        "seconds": round(time.perf_counter() - start, 2),
        "insertion_points": len(report.inserted),
        "blocks": dict(Counter(site.kind for site in report.inserted)),
        "skipped": dict(Counter(f"{skip.kind} {skip.reason}" for skip in report.skipped)),
        "added": report.params,
    }
    return report


def compare(model: nn.Module, network: zoo_networks.Network, report: Report, record: dict[str, Any]) -> None:
    """Compare the network before and after surgery."""
    randomise(model)
    for size in network.sizes:
        try:
            start = time.perf_counter()
            in_training = settle(model, network, size)
            break
        except Exception as error:
            if size == network.sizes[-1]:
                raise RuntimeError(f"the original doesn't run: {error}") from error
    cheap = time.perf_counter() - start < CHEAP_SECONDS
    before = run(model.eval(), network, size)
    record["size"] = "x".join(map(str, size))
    record["finite"] = bool(before) and all(bool(t.isfinite().all()) for t in before)
    record["alive"] = network.detector or any(bool((t[0] != t[1]).any()) for t in before if len(t) == 2)
    start = time.perf_counter()
    apply_insertion_points(model, report.inserted)
    record["seconds"] = round(record["seconds"] + time.perf_counter() - start, 2)
    trainable(model, "attention")
    after = run_backwards(model, network, size)
    record["identical"] = identical(before, after)
    if cheap:
        record["identical_training"] = identical(in_training, run(model.train(), network, size))
    gates = [model.get_submodule(site.path).attention for site in report.inserted]
    record["reached"] = sum(any(p.grad is not None and bool(p.grad.ne(0).any()) for p in g.parameters()) for g in gates)


def run_backwards(model: nn.Module, network: zoo_networks.Network, size: tuple[int, ...]) -> list[Tensor]:
    """Compare the outputs in evaluation mode, and count the gates with gradients."""
    if not network.detector:
        after = run(model.eval(), network, size, gradient=True)
        leaves = after
    else:
        after = run(model.eval(), network, size)
        leaves = []
        if isinstance(getattr(model, "head", None), nn.Module):
            # A loss may ignore outputs without a matching example, so gradients start before it.
            model.head.register_forward_hook(lambda _m, _a, output: leaves.extend(tree_leaves(output)))
        losses = run(model.train(), network, size, gradient=True)
        leaves = leaves or losses
    generator = torch.Generator().manual_seed(2)
    torch.stack(
        [(leaf * torch.randn(leaf.shape, generator=generator)).sum() for leaf in leaves if leaf.requires_grad]
    ).sum().backward()
    return after


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS_PER_NETWORK} s")


def work(names: list[str], cache: Path) -> None:
    """Examine networks in turn, in this process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_slow)
    for name in names:
        start = time.perf_counter()
        signal.alarm(SECONDS_PER_NETWORK)
        network = zoo_networks.find(name)
        record: dict[str, Any] = {"name": name, "family": network.family}
        try:
            examine(network, record)
        except Exception as error:
            record["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        finally:
            signal.alarm(0)
        record["total_seconds"] = round(time.perf_counter() - start, 2)
        with cache.open("a") as file:
            file.write(json.dumps(record) + "\n")
        shown = {
            k: v
            for k, v in record.items()
            if k
            in (
                "convolutions",
                "attentions",
                "insertion_points",
                "identical",
                "identical_training",
                "reached",
                "refused",
                "error",
            )
        }
        print(f"{record['total_seconds']:7.1f}s {name} {shown}", flush=True)
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 3_500_000:
            return


def known(cache: Path) -> dict[str, dict[str, Any]]:
    """Return the newest record of each network."""
    return {record["name"]: record for record in map(json.loads, lines(cache))}


def interleaved(names: list[str]) -> Iterator[str]:
    """Order networks: the first of every family, then the second of every family, and so on. Errors show early."""
    seen: Counter[str] = Counter()
    ranked = []
    for name in names:
        family = zoo_networks.find(name).family
        ranked.append((seen[family], len(ranked), name))
        seen[family] += 1
    return (name for _, _, name in sorted(ranked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--again", action="store_true", help="also networks in the cache")
    parser.add_argument("--failed", action="store_true", help="networks that failed according to the cache")
    parser.add_argument("--report", action="store_true", help="write the tables from the cache and stop")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.cache)
        return
    names = [n for n in zoo_networks.names() if any(fnmatch.fnmatch(n, pattern) for pattern in options.only)]
    if not options.report:
        options.cache.parent.mkdir(exist_ok=True)
        before = known(options.cache)
        if options.failed:
            names = [n for n in names if n in before and zoo_report.outcome(before[n]) in zoo_report.FAILURES]
        elif not options.again:
            names = [n for n in names if n not in before]
        drive(list(interleaved(names)), options.cache)
    records = known(options.cache)
    names = zoo_networks.names()
    zoo_report.write([records[n] for n in names if n in records], len(names), HERE)


def drive(names: list[str], cache: Path) -> None:
    """Pass the networks to worker processes in chunks."""
    todo = list(names)
    while todo:
        chunk, earlier = todo[:CHUNK], len(lines(cache))
        command = [sys.executable, __file__, "--cache", str(cache), "--worker", *chunk]
        code = subprocess.run(command, check=False).returncode
        done = {json.loads(line)["name"] for line in lines(cache)[earlier:]}
        left = [name for name in chunk if name not in done]
        if code and left:
            lost = {"name": left[0], "family": zoo_networks.find(left[0]).family}
            with cache.open("a") as file:
                file.write(json.dumps(lost | {"error": f"its process died with {code}"}) + "\n")
            done.add(left[0])
        todo = [name for name in todo if name not in done]
        print(f"---- {len(todo)} of {len(names)} left", flush=True)


def lines(cache: Path) -> list[str]:
    """Return the lines of the cache."""
    return cache.read_text().splitlines() if cache.exists() else []


if __name__ == "__main__":
    main()
