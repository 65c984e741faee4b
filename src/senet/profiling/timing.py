"""Time computations. Every duration of a computation in this package comes from this module.

An accelerator computes while Python goes on, so the clock is read after all queued work is done. Candidates run in
turns, so that other load affects all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Timing", "now", "seconds_in_turns", "seconds_of", "time_interleaved"]


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
    candidates: Mapping[str, Callable[[], Any]],
    *,
    seconds: float,
    min_rounds: int = 5,
    device: torch.device | None = None,
) -> dict[str, Timing]:
    """Run all candidates once to warm up, then in turn until the time is over.

    Args:
        candidates: The functions to time, by name. Ratios refer to the first one.
        seconds: Time for all candidates together.
        min_rounds: Smallest number of rounds, however long they take.
        device: The device that computes. None is the current accelerator, if there is one.

    Example:
        >>> import torch, senet
        >>> from senet.profiling import time_interleaved
        >>> model, images = senet.create_model("se_cifar_resnet20").eval(), torch.rand(1, 3, 32, 32)
        >>> fast, _ = senet.optimize(model)
        >>> timings = time_interleaved({"model": lambda: model(images), "optimized": lambda: fast(images)}, seconds=0.1)
        >>> list(timings), timings["model"].ratio
        (['model', 'optimized'], 1.0)
    """
    taken = seconds_in_turns(list(candidates.values()), seconds=seconds, min_rounds=min_rounds, device=device)
    found = {}
    for name, times in zip(candidates, taken, strict=True):
        ratios = [duration / reference for duration, reference in zip(times, taken[0], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[name] = Timing(1000 * statistics.median(times), statistics.median(ratios), (low, high), len(times))
    return found


def seconds_in_turns(
    candidates: Sequence[Callable[[], Any]],
    *,
    seconds: float,
    min_rounds: int,
    warmups: int = 1,
    device: torch.device | None = None,
) -> list[list[float]]:
    """Return the seconds of each run, one list per candidate. The arguments are those of `time_interleaved`.

    Args:
        candidates: The functions to time.
        seconds: Time for all candidates together.
        min_rounds: Smallest number of rounds, however long they take.
        warmups: Runs of each candidate before the first timed one.
        device: The device that computes. None is the current accelerator, if there is one.
    """
    for run in candidates:
        for _ in range(warmups):
            run()
    taken: list[list[float]] = [[] for _ in candidates]
    started = now(device)
    while len(taken[0]) < min_rounds or now(device) - started < seconds:
        for run, times in zip(candidates, taken, strict=True):
            times.append(seconds_of(run, device=device))
    return taken


def seconds_of(run: Callable[[], Any], *, device: torch.device | None = None) -> float:
    """Return the seconds of one run, with all that it queues on the device."""
    started = now(device)
    run()
    return now(device) - started


def now(device: torch.device | None = None) -> float:
    """Return the time in seconds, after the device has done all that is queued on it.

    Args:
        device: The device that computes. None is the current accelerator, if there is one. A CPU never queues.
    """
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        if device is None or (accelerator is not None and device.type == accelerator.type):
            torch.accelerator.synchronize(device)
    return time.perf_counter()
