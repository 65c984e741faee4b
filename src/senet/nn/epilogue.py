"""The end of a residual unit as one operation: norm -> Squeeze-and-Excitation -> add -> ReLU.

Batch norm reads the whole map for its statistics; the sums of each sample in that same pass give the squeeze for
nothing, since mean(norm(x)) = norm(mean(x)). One more pass writes `relu(s * norm(x) + shortcut)`. Backwards, one pass
gives the gradient behind the ReLU and two sums, from which all small gradients follow, and one more the gradient of x.
Kept for the backward pass are x, the result, and (N, C) vectors; not norm(x), not the scaled map.

Source: Hu et al. 2018, eqs. 2-4 and Fig. 3; the authors fuse scale and addition in inference ("Axpy").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from senet.nn.block import SqueezeExcite
from senet.nn.inserted import inserted_after
from senet.nn.squeeze import mean as spatial_mean
from senet.ops import GATE_NUMBERS, bn_se_add_relu, choose

__all__ = ["alike", "eager", "norm_relu", "on_the_processor", "residual_epilogue", "untouched"]


def residual_epilogue(x: Tensor, norm: nn.Module, se: nn.Module, shortcut: Tensor) -> Tensor:
    """Return `relu(shortcut + se(norm(x)))`: by the compiled kernel where it can, else by the modules.

    The kernel takes over on processors, for float32 and bfloat16 maps of equal type and memory format, a
    `nn.BatchNorm2d` in either mode, and `SqueezeExcite` with any gate (or `nn.Identity`), if nothing watches the
    modules. Running statistics are updated as `nn.BatchNorm2d` does.

    Args:
        x: What the branch's last convolution gives, (N, C, H, W).
        norm: The norm after it.
        se: The attention; the identity in a plain network.
        shortcut: As x.

    Returns:
        (N, C, H, W).
    """
    if isinstance(norm, nn.BatchNorm2d) and _fits(x, norm, shortcut):
        inserted = inserted_after(norm) if type(se) is nn.Identity else None
        if inserted is not None and _attention_fits(inserted) and untouched(inserted, se) and _unwatched(norm, 1):
            return _fused(x, norm, inserted, shortcut)
        if _attention_fits(se) and untouched(norm, se):
            return _fused(x, norm, se, shortcut)
    return torch.relu(shortcut + se(norm(x)))


def norm_relu(x: Tensor, norm: nn.Module, relu: nn.Module) -> Tensor:
    """Return `relu(norm(x))`, (N, C, H, W) -> the same: `residual_epilogue` without attention and shortcut."""
    if isinstance(norm, nn.BatchNorm2d) and _fits(x, norm, None) and type(relu) is nn.ReLU and untouched(norm):
        inserted = inserted_after(relu)
        if _unwatched(relu, 0 if inserted is None else 1):
            y = _fused(x, norm, None, None)
            return y if inserted is None else inserted(y)
    return relu(norm(x))


def untouched(*modules: nn.Module) -> bool:
    """Whether nothing watches or replaces what these modules compute: no hooks, no `forward` of their own."""
    return not _module._has_any_global_hook() and all(_unwatched(m, 0) for m in modules)


def _unwatched(module: nn.Module, hooks: int) -> bool:
    """Whether it has just so many forward hooks, and nothing else of that kind."""
    return len(module._forward_hooks) == hooks and not (
        module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or "gate" in module.__dict__
    )


def _fits(x: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor | None) -> bool:
    return (
        on_the_processor(x)
        and type(norm) is nn.BatchNorm2d
        and x.shape[1] == norm.num_features
        and x.numel() > x.shape[1]  # one value a channel: the norm's own error
        and (shortcut is None or alike(x, shortcut))
        and all(t is None or t.dtype == torch.float32 for t in (norm.weight, norm.running_mean))
    )


def on_the_processor(x: Tensor) -> bool:
    """Whether the kernel takes such a map."""
    return (
        (eager() or _compiled_training())
        and _has_kernel()
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.ndim == 4
        and x.numel() > 0
        and (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))
    )


def alike(x: Tensor, shortcut: Tensor) -> bool:
    """Whether the shortcut has the shape, type and memory format of x."""
    return (
        type(shortcut) is Tensor
        and shortcut.dtype == x.dtype
        and shortcut.shape == x.shape
        and shortcut.stride() == x.stride()
        and shortcut.device == x.device
    )


def _attention_fits(se: nn.Module) -> bool:
    if type(se) is nn.Identity:
        return True
    return (
        type(se) is SqueezeExcite
        and se.squeeze is spatial_mean
        and se.activate in GATE_NUMBERS
        and type(se.fc1) is nn.Linear
        and type(se.fc2) is nn.Linear
        and se.fc1.weight.dtype == torch.float32
        and se.fc1.weight.is_contiguous()
        and se.fc2.weight.is_contiguous()
        and untouched(se.fc1, se.fc2)
    )


def eager() -> bool:
    """Whether numbers are computed now, and derived by autograd backwards: no tracing, no function transforms."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
    )


def _compiled_training() -> bool:
    """Whether `torch.compile` is making a training step: faster with the operator than with what Inductor fuses.

    Measured: benchmarks/compile.json.
    """
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting() and torch.is_grad_enabled()


@torch.compiler.assume_constant_result
def _has_kernel() -> bool:
    return choose().library is not None


def _fused(x: Tensor, norm: nn.BatchNorm2d, se: nn.Module | None, shortcut: Tensor | None) -> Tensor:
    training = norm.training or norm.running_mean is None
    w1 = b1 = w2 = b2 = None
    gate = 0
    if isinstance(se, SqueezeExcite):
        w1, b1, w2, b2 = se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias
        gate = GATE_NUMBERS[se.activate]
    before = (None, None) if training else (norm.running_mean, norm.running_var)
    y, statistics, _ = bn_se_add_relu(
        x, shortcut, norm.weight, norm.bias, *before, w1, b1, w2, b2, training, norm.eps, gate
    )
    if norm.training and norm.running_mean is not None:
        _update(norm, statistics)
    return y


@torch.no_grad()
def _update(norm: nn.BatchNorm2d, statistics: Tensor) -> None:
    """Move the running statistics as `nn.BatchNorm2d` does."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    momentum = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    momentum = momentum or 0.0
    for running, batch in zip((norm.running_mean, norm.running_var), statistics, strict=True):
        running.mul_(1 - momentum).add_(batch, alpha=momentum)
