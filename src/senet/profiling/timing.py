"""Time several candidates in interleaved runs, so that other load affects all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Timing", "time_interleaved"]


@dataclass(frozen=True)
class Timing:
    """The times of one candidate.

    Attributes:
        ms: Median of its runs in milliseconds.
        ratio: Median over the rounds of its time divided by the first candidate's in the same round.
        quartiles: First and third quartile of these ratios.
        rounds: Number of runs.

    Example:
        >>> from senet.profiling import time_interleaved
        >>> timing = time_interleaved({"sum": lambda: sum(range(1000))}, seconds=0.01)["sum"]
        >>> timing.ms > 0, timing.ratio, timing.quartiles
        (True, 1.0, (1.0, 1.0))
    """

    ms: float
    ratio: float
    quartiles: tuple[float, float]
    rounds: int


def time_interleaved(
    candidates: Mapping[str, Callable[[], Any]], *, seconds: float, min_rounds: int = 5
) -> dict[str, Timing]:
    """Run all candidates once to warm up, then in turn until the time is over.

    Args:
        candidates: The functions to time, by name. Ratios refer to the first one.
        seconds: Time for all candidates together.
        min_rounds: Smallest number of rounds, however long they take.

    Example:
        >>> import torch, senet
        >>> from senet.profiling import time_interleaved
        >>> model, images = senet.create_model("se_cifar_resnet20").eval(), torch.rand(1, 3, 32, 32)
        >>> fast, _ = senet.optimize(model)
        >>> timings = time_interleaved({"model": lambda: model(images), "optimized": lambda: fast(images)}, seconds=0.1)
        >>> list(timings), timings["model"].ratio
        (['model', 'optimized'], 1.0)
    """
    for run in candidates.values():
        run()
    durations: dict[str, list[float]] = {name: [] for name in candidates}
    started, rounds = time.perf_counter(), 0
    while rounds < min_rounds or time.perf_counter() - started < seconds:
        for name, run in candidates.items():
            before = _now()
            run()
            durations[name].append(_now() - before)
        rounds += 1
    first = next(iter(durations.values()))
    found = {}
    for name, times in durations.items():
        ratios = [duration / reference for duration, reference in zip(times, first, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[name] = Timing(1000 * statistics.median(times), statistics.median(ratios), (low, high), rounds)
    return found


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
