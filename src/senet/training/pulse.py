"""Decisions that the processes of a training take together, about once a second, since each waits for all devices."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import lightning as L
import torch
import torch.distributed as dist

__all__ = ["Pulse", "any_process"]

PERIOD_S: Final = 1.0
"""Time between two decisions."""

MAX_STEPS: Final = 1000
"""Largest number of steps between two decisions."""


class Pulse:
    """Chooses the steps after which the processes decide: the same ones in all of them.

    The number of steps between two decisions follows the speed of the training. It is part of each decision, and at
    most doubles.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Decide after the next step, where steps may take another time from now on."""
        self._interval = self._left = 1
        self._since = time.monotonic()

    def due(self) -> bool:
        """Count a step, and return whether to decide after it."""
        self._left -= 1
        return self._left <= 0

    def decide(self, trainer: L.Trainer, wishes: Sequence[bool]) -> list[bool]:
        """Return which of some wishes any process has. Every process must call it."""
        spent = time.monotonic() - self._since
        rate = (self._interval - self._left) / max(spent, 1e-9)  # steps a second, also before the decision is due
        wanted = int(min(2 * self._interval, PERIOD_S * rate, MAX_STEPS))
        *found, self._left = _largest(trainer, [*wishes, max(wanted, 1)])
        self._interval, self._since = self._left, time.monotonic()
        return [bool(one) for one in found]


def any_process(trainer: L.Trainer, wanted: bool) -> bool:
    """Whether the value is true in any process. Every process must call it."""
    return bool(_largest(trainer, [wanted])[0])


def _largest(trainer: L.Trainer, values: Sequence[int]) -> list[int]:
    """Return the largest of each value over the processes."""
    if trainer.world_size == 1:
        return list(values)
    shared = torch.tensor(values, dtype=torch.int64, device=trainer.strategy.root_device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    found: list[int] = shared.tolist()
    return found
