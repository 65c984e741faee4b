"""A mean over an epoch that never waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["Mean"]


class Mean(Metric):
    """Weighted mean of all values so far, over all processes.

    Differs: torchmetrics' `MeanMetric` waits for the device in each update, to look for NaN. Here NaN stays NaN.
    """

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("weight", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, values: Tensor, weight: Tensor | float = 1.0) -> None:
        """Add values.

        Args:
            values: Any shape.
            weight: Of each value. A value with a weight of zero may be NaN.
        """
        if isinstance(weight, Tensor):
            weight = weight.to(self.weight.dtype)
            self.total += torch.where(weight != 0, values * weight, 0.0).sum()
            self.weight += weight.sum()
        else:
            self.total += values.to(self.total.dtype).sum() * weight
            self.weight += weight * values.numel()

    def compute(self) -> Tensor:
        """Return the mean, NaN without values."""
        return self.total / self.weight
