"""Batch norms with statistics over the images of all processes."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode

from senet.fusion.deferred import plain_type
from senet.training.batch_norm_kernels import kernels

__all__ = ["SyncBatchNormPlugin", "synchronized_batch_norm"]


class SyncBatchNormPlugin(LayerSync):
    """Synchronizes a network's batch norms while it trains on several processes.

    A norm changes its class and stays the same object, so that its parameters, running statistics and hooks (such as
    inserted attention) are kept. The new class runs the norm's own `forward` with another `F.batch_norm`, so that
    whatever a subclass adds (the activation of timm's `BatchNormAct2d`) is kept too.
    """

    def __init__(self) -> None:
        self._before: list[tuple[nn.Module, type[nn.Module]]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronize all batch norms and their subclasses, except lazy ones and those that do so by themselves."""
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, _LEFT):
                self._before.append((module, type(module)))
                # A norm that `senet.accelerate` lets wait for its attention computes by itself meanwhile.
                module.__class__ = _synchronized(plain_type(module))  # type: ignore[arg-type, assignment]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Restore the original batch norms."""
        while self._before:
            module, kind = self._before.pop()
            module.__class__ = kind
        return model


class _Synchronized(nn.Module):
    """Base of the classes that stand before a norm's own class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the norm's own `forward`, in training with the statistics of all processes."""
        if not self.training or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(*args, **kwargs)
        with _SynchronizedCalls():
            return super().forward(*args, **kwargs)


_LEFT: Final = (_Synchronized, nn.SyncBatchNorm, LazyModuleMixin)
"""Norms that are synchronized already, or change their class themselves in their first call."""


@functools.cache
def _synchronized(kind: Any) -> type[nn.Module]:
    names = {"__module__": __name__, "__doc__": kind.__doc__}
    return types.new_class(f"Sync{kind.__name__}", (_Synchronized, kind), exec_body=lambda body: body.update(names))


class _SynchronizedCalls(TorchFunctionMode):
    """Within this context, `F.batch_norm` uses the statistics of all processes in training."""

    def __torch_function__(
        self, func: Callable[..., Any], kinds: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del kinds
        return (synchronized_batch_norm if func is F.batch_norm else func)(*args, **kwargs or {})


def synchronized_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Compute `F.batch_norm`, in training with the statistics of all processes. They may have unequal batches.

    Args:
        input: (N, C, ...).
        running_mean: (C,), updated in training.
        running_var: (C,), updated in training.
        weight: (C,).
        bias: (C,).
        training: Whether to use the statistics of the batch.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.

    Returns:
        The shape of `input`.

    Differs: `nn.SyncBatchNorm` refuses CPU tensors, and waits for the device in each norm to leave out empty batches.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    y: Tensor = _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps)
    return y


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        x, run = _dense(x), kernels(x.device)
        mean, invstd = run.batch_norm_stats(x, eps)
        count = torch.full((1,), x.numel() // x.shape[1], dtype=mean.dtype, device=x.device)
        own = torch.cat([mean, invstd, count])
        # One row for each process. A sum of zeros and one process's row is exact, and every back end can sum.
        rows = own.new_zeros(dist.get_world_size(), len(own))
        rows[dist.get_rank()] = own
        dist.all_reduce(rows)
        means, invstds, counts = rows.split([len(mean), len(mean), 1], dim=1)
        counts = counts.reshape(-1)
        mean, invstd = run.batch_norm_gather_stats_with_counts(
            x,
            means,
            invstds,
            running_mean,
            running_var,
            momentum,
            eps,
            counts if running_mean is None else counts.to(running_mean.dtype),
        )
        ctx.save_for_backward(x, weight, mean, invstd, counts.to(torch.int32))
        return run.batch_norm_elemt(x, weight, bias, mean, invstd, eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd, counts = ctx.saved_tensors
        dy, run, needed = _dense(dy), kernels(x.device), ctx.needs_input_grad
        sum_dy, sum_dy_xmu, d_weight, d_bias = run.batch_norm_backward_reduce(dy, x, mean, invstd, weight, *needed[:3])
        dx = None
        if needed[0]:
            sums = torch.cat([sum_dy, sum_dy_xmu])
            dist.all_reduce(sums)
            weight = weight if weight is None else weight.to(mean.dtype)
            dx = run.batch_norm_backward_elemt(dy, x, mean, invstd, weight, *sums.chunk(2), counts)
        # The gradients of gamma and beta are averaged over the processes with all others.
        return dx, d_weight if needed[1] else None, d_bias if needed[2] else None, None, None, None, None


def _dense(x: Tensor) -> Tensor:
    """Return x in one of the memory formats that the kernels read."""
    formats = torch.channels_last, torch.channels_last_3d
    return x if any(x.is_contiguous(memory_format=one) for one in formats) else x.contiguous()
