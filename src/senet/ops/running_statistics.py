"""Running statistics of a batch norm, moved towards those of a batch as `nn.BatchNorm2d` does."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.ops.backend import runs_triton

__all__ = ["update_running"]


def update_running(
    mean: Tensor, var: Tensor, statistics: Tensor, momentum: float, batches: Tensor | None = None
) -> None:
    """Move running mean and variance in place: by one kernel where Triton computed the statistics.

    Args:
        mean: (C,).
        var: (C,).
        statistics: Mean and unbiased variance of the batch, (2, C).
        momentum: Weight of this batch.
        batches: The number of batches so far, with this one, (). Then all batches weigh the same.

    Example:
        >>> import torch
        >>> from senet.ops.running_statistics import update_running
        >>> mean, var = torch.zeros(1), torch.ones(1)
        >>> update_running(mean, var, torch.tensor([[1.0], [3.0]]), momentum=0.5)
        >>> mean, var
        (tensor([0.5000]), tensor([2.]))
    """
    if not torch.compiler.is_compiling() and runs_triton(statistics):
        from senet.ops.triton import running

        running.update_running(mean, var, batches, statistics, momentum)
        return
    if batches is not None:
        momentum = 1 / float(batches)
    for total, batch in zip((mean, var), statistics, strict=True):
        total.mul_(1 - momentum).add_(batch, alpha=momentum)
