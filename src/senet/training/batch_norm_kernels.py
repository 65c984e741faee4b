"""The computations of a synchronized batch norm between its exchanges: PyTorch's on GPUs, their definition elsewhere.

The functions of `Definition` have the names, arguments and results of PyTorch's, which exist for GPUs only.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

__all__ = ["FUSED", "Definition", "kernels"]

FUSED: Final = ("cuda", "xpu")
"""Types of devices for which PyTorch has the kernels, as in `nn.SyncBatchNorm`."""


def kernels(device: torch.device) -> Any:
    """Return the object that has the functions for a device.

    PyTorch's can't be traced by `torch.compile`, which fuses the definition instead.
    """
    return torch.ops.aten if device.type in FUSED and not torch.compiler.is_compiling() else Definition


class Definition:
    """The functions in plain PyTorch, on any device. Statistics of 16-bit maps are float32."""

    @staticmethod
    def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Return mean and 1 / standard deviation of this process's batch, (C,) each."""
        var, mean = torch.var_mean(_wide(x), _axes(x), correction=0)
        return mean, torch.rsqrt(var + eps)

    @staticmethod
    def batch_norm_gather_stats_with_counts(
        x: Tensor,  # noqa: ARG004
        means: Tensor,
        invstds: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        counts: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Merge the statistics of all processes, and update the running ones.

        Args:
            x: Not read.
            means: (processes, C).
            invstds: (processes, C).
            running_mean: (C,).
            running_var: (C,).
            momentum: Share of the batch in the running statistics.
            eps: Added to the variance.
            counts: (processes,) values of a channel in each.

        Returns:
            Mean and 1 / standard deviation, (C,) each.
        """
        share = (counts / counts.sum()).to(means.dtype)[:, None]
        mean = (share * means).sum(0)
        # The variance adds that within processes and that between their means.
        var = (share * (invstds.pow(-2) - eps + (means - mean).square())).sum(0).clamp(min=0)
        if running_mean is not None and running_var is not None:
            total = counts.sum().to(means.dtype)
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (total / (total - 1).clamp(min=1))).to(running_var.dtype), momentum)
        return mean, torch.rsqrt(var + eps)

    @staticmethod
    def batch_norm_elemt(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        invstd: Tensor,
        eps: float,  # noqa: ARG004
    ) -> Tensor:
        """Normalize x with statistics, gamma and beta of (C,)."""
        scale = invstd if weight is None else invstd * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        return torch.addcmul(_channels(shift, x), x, _channels(scale, x)).to(x.dtype)

    @staticmethod
    def batch_norm_backward_reduce(
        dy: Tensor,
        x: Tensor,
        mean: Tensor,
        invstd: Tensor,
        weight: Tensor | None,  # noqa: ARG004
        for_x: bool,  # noqa: ARG004
        for_weight: bool,  # noqa: ARG004
        for_bias: bool,  # noqa: ARG004
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the sums of dy and of dy * (x - mean), and the gradients of gamma and beta, (C,) each."""
        dy = _wide(dy)
        sum_dy = dy.sum(_axes(x))
        sum_dy_xmu = (dy * (x - _channels(mean, x))).sum(_axes(x))
        return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy

    @staticmethod
    def batch_norm_backward_elemt(
        dy: Tensor,
        x: Tensor,
        mean: Tensor,
        invstd: Tensor,
        weight: Tensor | None,
        sum_dy: Tensor,
        sum_dy_xmu: Tensor,
        counts: Tensor,
    ) -> Tensor:
        """Return the gradient of x from the sums over all processes."""
        total = counts.sum()
        scale = invstd if weight is None else invstd * weight
        slope = _channels(-scale * invstd.square() * sum_dy_xmu / total, x)
        shift = _channels(-scale * sum_dy / total, x)
        return (_wide(dy) * _channels(scale, x) + (x - _channels(mean, x)) * slope + shift).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *(1 for _ in x.shape[2:]))
