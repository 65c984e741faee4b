"""Time networks and exported files in interleaved rounds, so that a slow moment of the machine affects all of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.deploy.formats import format_of
from senet.deploy.loading import load_exported, read_export_metadata
from senet.deploy.runtimes import RUNTIMES
from senet.errors import SenetError, UnknownNameError
from senet.fusion.optimization import optimize
from senet.inference.backends import cuda_backends, tf32_uses
from senet.inference.device import device_named
from senet.profiling.timing import seconds_in_turns
from senet.tasks import load_model
from senet.zoo import build_model, model_defaults

__all__ = ["Row", "bench", "machine", "randomise"]

PLAIN: Final = ("eager", "optimized")
"""Runtimes of a network that isn't exported."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Timing of one network in one runtime, with one batch size and number of threads.

    Attributes:
        network: Name of the network.
        runtime: `"eager"`, `"optimized"`, or a key of `RUNTIMES`.
        device: Device that computes.
        batch: Batch size.
        threads: Number of CPU threads.
        size: Height and width in pixels.
        ms: Median time of one call in milliseconds.
        ms_quartiles: First and third quartile of it.
        images_per_second: Throughput at the median.
        ratio: Time relative to the first network's in the same round, median over the rounds. 1 for the first itself.
        ratio_quartiles: First and third quartile of it.
        rounds: Number of rounds. Each calls every network once.
    """

    network: str
    runtime: str
    device: str
    batch: int
    threads: int
    size: tuple[int, int]
    ms: float
    ms_quartiles: tuple[float, float]
    images_per_second: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class _Candidate:
    network: str
    runtime: str
    channels: int
    size: tuple[int, int]
    open: Callable[[int], nn.Module]


def bench(
    networks: Sequence[str],
    *,
    runtimes: Sequence[str] = (),
    batch_sizes: Sequence[int] = (1,),
    threads: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    seconds: float = 10.0,
    factory: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Row]:
    """Time networks and exported files.

    Args:
        networks: Names of `list_models()` (with random weights), checkpoints, exported files.
        runtimes: `"eager"` and `"optimized"` for networks, keys of `RUNTIMES` for files. Empty means eager for
            networks and each file's default.
        batch_sizes: Batch sizes.
        threads: Numbers of CPU threads; None: PyTorch's choice.
        size: Height and width in pixels; None: the first network's own.
        seconds: Seconds for each batch size and number of threads.
        factory: `module:function` of the user's own network, for its checkpoints.
        device: `"cpu"`, or an accelerator of this machine such as `"cuda"`. Exported files run on the CPU only.
        progress: Called with the number of finished rows and of all rows.

    Returns:
        The rows by number of threads, batch size and network.

    Raises:
        SenetError: A name is unknown, a file can't be used, or takes another size or batch size.
        UnknownNameError: This machine has no such device.
    """
    where = device_named(device)
    candidates = [c for name in networks for c in _candidates(name, runtimes, factory, where)]
    size = size or candidates[0].size
    counts = tuple(threads or (torch.get_num_threads(),))
    rows: list[Row] = []
    for count in counts:
        with _threads(count):
            opened = [candidate.open(count) for candidate in candidates]
            for batch in batch_sizes:
                times = _timed(candidates, opened, batch, size, seconds, where)
                rows += [
                    _row(c, taken, times[0], device, batch, count, size)
                    for c, taken in zip(candidates, times, strict=True)
                ]
                progress(len(rows), len(candidates) * len(batch_sizes) * len(counts))
    return rows


def _candidates(name: str, runtimes: Sequence[str], factory: str | None, device: torch.device) -> Iterator[_Candidate]:
    unknown = next((r for r in runtimes if r not in (*PLAIN, *RUNTIMES)), None)
    if unknown is not None:
        raise UnknownNameError("runtime", unknown, (*PLAIN, *RUNTIMES))
    kind = format_of(Path(name))
    able = PLAIN if kind is None else kind.runtimes
    if runtimes:
        wanted = [r for r in runtimes if r in able]
    else:
        wanted = [PLAIN[0] if kind is None else kind.runtime(Path(name), None)]
    if not wanted:
        raise SenetError(f"{name} runs in {' or '.join(able)}, not in {', '.join(runtimes)}")
    if kind is not None:
        if device.type != "cpu":
            raise SenetError(f"{name}: exported files run on the CPU; leave it out, or use device cpu for all")
        images = read_export_metadata(Path(name)).preprocessing
        for runtime in wanted:
            yield _Candidate(name, runtime, images.in_channels, images.size, _file_opener(name, runtime))
        return
    network, channels, size = _network(name, factory, device)
    for runtime in wanted:
        made = optimize(network)[0] if runtime == "optimized" else network
        yield _Candidate(name, runtime, channels, size, lambda _, made=made: made)  # type: ignore[misc]


def _file_opener(name: str, runtime: str) -> Callable[[int], nn.Module]:
    return lambda threads: load_exported(name, runtime=runtime, threads=threads).model


def _network(name: str, factory: str | None, device: torch.device) -> tuple[nn.Module, int, tuple[int, int]]:
    if os.path.exists(name):
        loaded = load_model(name, factory=factory)
        network, images = loaded.model, loaded.preprocessing
    else:
        classes, images = model_defaults(name)
        network = randomise(build_model(name, num_classes=classes, in_channels=images.in_channels))
    return network.eval().to(device).to(memory_format=torch.channels_last), images.in_channels, images.size


def randomise(network: nn.Module) -> nn.Module:
    """Draw random norms, biases and statistics. Zeros and ones would hide work and errors."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.2, 1.0, generator=generator)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
    return network


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(
    candidates: Sequence[_Candidate],
    opened: Sequence[nn.Module],
    batch: int,
    size: tuple[int, int],
    seconds: float,
    device: torch.device,
) -> list[list[float]]:
    """Return the seconds of each call, one list per candidate, after two warm-up calls."""
    generator = torch.Generator().manual_seed(0)
    inputs: dict[int, Tensor] = {}
    for c in candidates:
        images = torch.randn(batch, c.channels, *size, generator=generator)
        inputs.setdefault(c.channels, images.to(device, memory_format=torch.channels_last))
    runs = [partial(network, inputs[c.channels]) for c, network in zip(candidates, opened, strict=True)]
    with torch.inference_mode(), cuda_backends(device, autotune=True):
        return seconds_in_turns(runs, seconds=seconds, min_rounds=3, warmups=2, device=device)


def _row(
    candidate: _Candidate,
    taken: list[float],
    first: list[float],
    device: str,
    batch: int,
    threads: int,
    size: tuple[int, int],
) -> Row:
    ratios = [a / b for a, b in zip(taken, first, strict=True)]
    return Row(
        network=candidate.network,
        runtime=candidate.runtime,
        device=device,
        batch=batch,
        threads=threads,
        size=size,
        ms=median(taken) * 1e3,
        ms_quartiles=_quartiles([t * 1e3 for t in taken]),
        images_per_second=batch / median(taken),
        ratio=median(ratios),
        ratio_quartiles=_quartiles(ratios),
        rounds=len(taken),
    )


def _quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def machine(device: str = "cpu") -> dict[str, str]:
    """Return the CPU, the date and the libraries' versions, and the name of an accelerator."""
    found = {"cpu": f"{_cpu_name()}, {os.cpu_count()} cores", "date": datetime.now(timezone.utc).isoformat()}
    if device != "cpu":
        found["accelerator"] = f"{_accelerator_name(device)} ({device})"
    if torch.device(device).type == "cuda":
        found["TF32 in"] = tf32_uses()
    for name in ("torch", "onnxruntime", "openvino"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _accelerator_name(device: str) -> str:
    kind = torch.device(device).type
    name_of = getattr(getattr(torch, kind, None), "get_device_name", None)  # torch.mps has none
    return str(name_of(device)) if name_of else kind.upper()


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.processor() or platform.machine()
