"""Time several candidates fairly: in turns, so that what else the machine does meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Timing", "in_turns"]


@dataclass(frozen=True)
class Timing:
    """One candidate's times.

    Attributes:
        ms: Median of its runs, in milliseconds.
        ratio: Median over the rounds of its time over the first candidate's in the same round.
        quartiles: Of these ratios: a quarter of them lies below the first, a quarter above the second.
        rounds: How often it ran.
    """

    ms: float
    ratio: float
    quartiles: tuple[float, float]
    rounds: int


def in_turns(candidates: Mapping[str, Callable[[], Any]], *, seconds: float, least: int = 5) -> dict[str, Timing]:
    """Run all candidates once, then in turns until the time is up.

    Args:
        candidates: Name to what is timed; the first is what the others' ratios refer to.
        seconds: For all of them together.
        least: Rounds at least, however long they take.
    """
    for run in candidates.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    started, rounds = time.perf_counter(), 0
    while rounds < least or time.perf_counter() - started < seconds:
        for name, run in candidates.items():
            before = _now()
            run()
            taken[name].append(_now() - before)
        rounds += 1
    first = next(iter(taken.values()))
    found = {}
    for name, times in taken.items():
        ratios = [mine / theirs for mine, theirs in zip(times, first, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[name] = Timing(1000 * statistics.median(times), statistics.median(ratios), (low, high), rounds)
    return found


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
