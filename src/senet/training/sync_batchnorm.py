"""Batch norms with statistics over the images of all processes, on CPUs too."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn

__all__ = ["SyncBatchNorm1d", "SyncBatchNorm2d", "SyncBatchNorm3d", "SyncBatchNormPlugin"]


class _Summed(torch.autograd.Function):
    """Sums a tensor over all processes, and its gradient too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004 - autograd's signature
        return _sum(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # noqa: ARG004
        return _sum(dy)


def _sum(x: Tensor) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x)
    return x


class _SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the images of all processes, in any backend, on any device.

    Every process must have the same number of values per channel, as training batches do.

    Differs: `nn.SyncBatchNorm` refuses CPU tensors. `SyncBatchNormPlugin` uses it on GPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same."""
        shared = self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not shared:
            return super().forward(x)
        self._check_input_dim(x)
        var, mean = self._statistics(x if x.dtype == torch.float64 else x.float())
        self._remember(mean.detach(), var.detach(), x.numel() // x.shape[1] * dist.get_world_size())
        scale = torch.rsqrt(var + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        channels = (1, -1, *(1 for _ in x.shape[2:]))
        return torch.addcmul(shift.view(channels), x, scale.view(channels)).to(x.dtype)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return variance and mean, (C,) each. The variance adds that within processes and that between their means."""
        axes = [axis for axis in range(x.ndim) if axis != 1]
        own_var, own_mean = torch.var_mean(x, axes, correction=0)
        world = dist.get_world_size()
        mean = _Summed.apply(own_mean) / world
        return _Summed.apply(own_var + (own_mean - mean).square()) / world, mean

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics as `nn.BatchNorm2d` does."""
        if self.running_mean is None or self.running_var is None:
            return
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if momentum is None else momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum or 0.0)
        self.running_var.lerp_(var.to(self.running_var.dtype) * (count / max(count - 1, 1)), momentum or 0.0)


class SyncBatchNorm1d(_SyncBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` over all processes."""


class SyncBatchNorm2d(_SyncBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` over all processes."""


class SyncBatchNorm3d(_SyncBatchNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` over all processes."""


OWN: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
}


class SyncBatchNormPlugin(LayerSync):
    """Synchronizes a network's batch norms while it trains on several processes.

    A norm changes its class and stays the same object, so that its parameters, running statistics and hooks (such as
    inserted attention) are kept.
    """

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, type[nn.Module]]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace PyTorch's batch norms. Subclasses are not replaced."""
        for module in model.modules():
            if type(module) in OWN:
                self._before.append((module, type(module)))
                parameter = next(module.parameters(), None)
                if parameter is not None and parameter.device.type == "cuda":
                    module.process_group = None  # type: ignore[assignment]
                    module.__class__ = nn.SyncBatchNorm
                else:
                    module.__class__ = OWN[type(module)]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Restore the original batch norms."""
        while self._before:
            module, kind = self._before.pop()
            module.__class__ = kind
        return model
