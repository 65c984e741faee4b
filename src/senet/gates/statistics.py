"""Streaming statistics of a gate: channel by channel, and within and between classes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["DEAD", "SATURATED", "GateStatistics"]

DEAD, SATURATED = 0.05, 0.95
"""A factor below the first switches its channel off; one above the second passes it on as it is."""


class GateStatistics:
    """Mean and variance of one gate, channel by channel and class by class, in float64, without keeping a gate.

    Memory depends on channels and classes alone: 16 bytes for each pair of them.

    Args:
        channels: Factors C that the gate has at one position.
        classes: Number of classes K; 1 where images have none.

    Attributes:
        counts: (K,) factors seen a channel: images, times positions where the gate has some.
        class_mean: (K, C); zero for a class not seen.
    """

    def __init__(self, channels: int, classes: int = 1) -> None:
        self.channels = channels
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.class_mean = torch.zeros(classes, channels, dtype=torch.float64)
        self._squares = torch.zeros(classes, channels, dtype=torch.float64)
        self._dead = self._saturated = 0

    def add(self, gate: Tensor, images: int, labels: Tensor | None = None) -> None:
        """Count the gate of a batch.

        Args:
            gate: (N, C, ...), or broadcast over N or C.
            images: N.
            labels: (N,) class numbers; None is class 0 for all.
        """
        gate = gate.detach().double().cpu()
        factors = gate.expand(images, self.channels, *gate.shape[2:]).reshape(images, self.channels, -1)
        labels = torch.zeros(images, dtype=torch.int64) if labels is None else labels.cpu()
        seen, which = labels.unique(return_inverse=True)
        new = torch.bincount(which).double() * factors.shape[2]
        mean = torch.zeros(len(seen), self.channels, dtype=torch.float64).index_add(0, which, factors.sum(2))
        mean /= new[:, None]
        from_mean = (factors - mean[which][:, :, None]).square().sum(2)
        squares = torch.zeros_like(mean).index_add(0, which, from_mean)
        # Chan et al. 1983: two sets' statistics joined without cancellation.
        old = self.counts[seen]
        share = (new / (old + new))[:, None]
        step = mean - self.class_mean[seen]
        self._squares[seen] += squares + step.square() * old[:, None] * share
        self.class_mean[seen] += step * share
        self.counts[seen] += new
        self._dead += int((factors < DEAD).sum())
        self._saturated += int((factors > SATURATED).sum())

    @property
    def count(self) -> int:
        """Factors seen a channel, over all classes."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Tensor:
        """Average factor of each channel, (C,)."""
        return self._average(self.class_mean)

    @property
    def within(self) -> Tensor:
        """Variance within a class, averaged over the classes as often as they were seen, (C,)."""
        return self._squares.sum(0) / max(1, self.count)

    @property
    def between(self) -> Tensor:
        """Variance of the classes' means, as often as they were seen, (C,)."""
        return self._average((self.class_mean - self.mean).square())

    @property
    def variance(self) -> Tensor:
        """Variance over the images, (C,): the sum of `within` and `between`."""
        return self.within + self.between

    @property
    def class_spread(self) -> Tensor:
        """Standard deviation within each class, (K, C)."""
        return (self._squares / self.counts.clamp(min=1)[:, None]).sqrt()

    @property
    def spread(self) -> float:
        """Standard deviation over the images, root mean square over the channels."""
        return float(self.variance.mean().sqrt())

    @property
    def dead(self) -> float:
        """Share of the factors below `DEAD`."""
        return self._dead / max(1, self.count * self.channels)

    @property
    def saturated(self) -> float:
        """Share of the factors above `SATURATED`."""
        return self._saturated / max(1, self.count * self.channels)

    def _average(self, by_class: Tensor) -> Tensor:
        return (self.counts[:, None] * by_class).sum(0) / max(1, self.count)
