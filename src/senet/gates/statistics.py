"""Streaming statistics of a gate, per channel, within and between classes."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.nn.precision import in_float64

__all__ = ["DEAD", "SATURATED", "GateStatistics"]

DEAD, SATURATED = 0.05, 0.95
"""Thresholds of the factor: below the first the channel is off, above the second it passes unchanged."""


class GateStatistics:
    """Mean and variance of one gate, per channel and class, in float64, without storing gates.

    Memory depends only on channels and classes: 16 bytes for each pair of them.

    Args:
        channels: Number C of factors per position.
        classes: Number K of classes. 1 for images without classes.

    Attributes:
        counts: (K,), factors per channel: images, times positions if the gate has some.
        class_mean: (K, C). Zero for a class without images.

    Example:
        >>> import torch
        >>> from senet.gates import GateStatistics
        >>> statistics = GateStatistics(channels=2)
        >>> statistics.add(torch.tensor([[0.0, 1.0], [0.5, 1.0]]), images=2)
        >>> statistics.mean.tolist(), round(statistics.spread, 4), statistics.dead
        ([0.25, 1.0], 0.1768, 0.25)
    """

    def __init__(self, channels: int, classes: int = 1) -> None:
        self.channels = channels
        self.counts = torch.zeros(classes, dtype=torch.float64)
        self.class_mean = torch.zeros(classes, channels, dtype=torch.float64)
        self._squares = torch.zeros(classes, channels, dtype=torch.float64)
        self._dead = self._saturated = 0

    def add(self, gate: Tensor, images: int, labels: Tensor | None = None) -> None:
        """Add the gates of a batch.

        Args:
            gate: (N, C, ...). N or C may be 1 and broadcast.
            images: Number N of images.
            labels: (N,), class numbers. None is class 0 for all.
        """
        gate = in_float64(gate)
        factors = gate.expand(images, self.channels, *gate.shape[2:]).reshape(images, self.channels, -1)
        labels = torch.zeros(images, dtype=torch.int64) if labels is None else labels.cpu()
        seen, which = labels.unique(return_inverse=True)
        new = torch.bincount(which).double() * factors.shape[2]
        mean = torch.zeros(len(seen), self.channels, dtype=torch.float64).index_add(0, which, factors.sum(2))
        mean /= new[:, None]
        from_mean = (factors - mean[which][:, :, None]).square().sum(2)
        squares = torch.zeros_like(mean).index_add(0, which, from_mean)
        # Chan et al. 1983: merges the statistics of two sets without cancellation.
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
        """Number of factors per channel, over all classes."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Tensor:
        """Mean factor of each channel, (C,)."""
        return self._average(self.class_mean)

    @property
    def within(self) -> Tensor:
        """Variance within a class, (C,), averaged over the classes, weighted by their counts."""
        return self._squares.sum(0) / max(1, self.count)

    @property
    def between(self) -> Tensor:
        """Variance of the class means, (C,), weighted by the counts of the classes."""
        return self._average((self.class_mean - self.mean).square())

    @property
    def variance(self) -> Tensor:
        """Variance over the images, (C,), the sum of `within` and `between`."""
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
        """Fraction of the factors below `DEAD`."""
        return self._dead / max(1, self.count * self.channels)

    @property
    def saturated(self) -> float:
        """Fraction of the factors above `SATURATED`."""
        return self._saturated / max(1, self.count * self.channels)

    def _average(self, by_class: Tensor) -> Tensor:
        return (self.counts[:, None] * by_class).sum(0) / max(1, self.count)
