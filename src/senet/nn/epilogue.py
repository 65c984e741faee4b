"""Choose between modules and fused operators, for the end of a residual block and for a norm with its ReLU.

Hooks on a module, a replaced `forward` or a subclass select the modules.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _module

from senet.nn.block import SqueezeExcite
from senet.nn.inserted import inserted_after
from senet.nn.squeeze import mean as spatial_mean
from senet.ops import GATE_NUMBERS, bn_se_add_relu, choose
from senet.ops.backend import backend_for
from senet.ops.bn_se_add_relu import SIGNATURE
from senet.ops.running_statistics import update_running

__all__ = [
    "is_large",
    "kernel_available",
    "norm_relu",
    "residual_epilogue",
    "running_statistics",
    "untouched",
    "unwatched",
    "update_running_statistics",
]

# Smallest number of elements of a feature map for which the operator is as fast as the modules, by (attention,
# training). For smaller ones its fixed cost dominates. Measured: benchmarks/operator_sizes.json.
MIN_ELEMENTS: Final = {
    (True, True): 1 << 15,
    (True, False): 1 << 16,
    (False, True): 3 << 17,
    (False, False): 3 << 17,
}
# In contiguous memory each channel of an image is one run. Runs of fewer pixels than SHORT_RUN are slower, and
# then the minimum is multiplied by SHORT_RUNS_COST.
SHORT_RUN: Final = 1024
SHORT_RUNS_COST: Final = 4
# On a GPU the operator starts as many kernels for a small feature map as for a large one. Not measured.
GPU_MIN_ELEMENTS: Final = 1 << 20


def residual_epilogue(x: Tensor, norm: nn.Module, se: nn.Module, shortcut: Tensor) -> Tensor:
    """Return `relu(shortcut + se(norm(x)))`, by the fused operator where it is faster, else by the modules.

    The operator takes over on CPUs, for float32 and bfloat16 feature maps, a `nn.BatchNorm2d` in either mode, and
    `SqueezeExcite` with any gate (or `nn.Identity`), if no hooks are on the modules. With `SENET_KERNELS=triton` it
    also does on GPUs, for channels_last. Running statistics are updated as by `nn.BatchNorm2d`.

    Args:
        x: Output of the branch's last convolution, (N, C, H, W).
        norm: The norm after it.
        se: The attention, or the identity in a plain network.
        shortcut: (N, C, H, W).

    Returns:
        (N, C, H, W).
    """
    if type(norm) is nn.BatchNorm2d:
        inserted = inserted_after(norm) if type(se) is nn.Identity else None
        attention = se if inserted is None else inserted
        # Inserted attention doesn't change the choice. Until it is trained, the output stays the same bit for bit.
        large = _is_large(x, attention=type(se) is not nn.Identity)
        unwatched = large and untouched(se) and _unwatched(norm, 0 if inserted is None else 1)
        if unwatched and _is_fusible(attention):
            y = _fused(x, norm, attention, shortcut)
            if y is not None:
                return y
    return torch.relu(shortcut + se(norm(x)))


def norm_relu(x: Tensor, norm: nn.Module, relu: nn.Module) -> Tensor:
    """Return `relu(norm(x))`, (N, C, H, W) -> the same: `residual_epilogue` without attention and shortcut."""
    if type(norm) is nn.BatchNorm2d and _is_large(x, attention=False) and type(relu) is nn.ReLU and untouched(norm):
        inserted = inserted_after(relu)
        if _unwatched(relu, 0 if inserted is None else 1):
            y = _fused(x, norm, None, None)
            if y is not None:
                return y if inserted is None else inserted(y)
    return relu(norm(x))


def untouched(*modules: nn.Module) -> bool:
    """Whether these modules have no hooks and no replaced `forward`."""
    return not _module._has_any_global_hook() and all(_unwatched(m, 0) for m in modules)


def unwatched(module: nn.Module) -> bool:
    """Whether there are no hooks on a module, except that of inserted attention."""
    hooks = 0 if inserted_after(module) is None else 1
    return not _module._has_any_global_hook() and _unwatched(module, hooks)


def _unwatched(module: nn.Module, hooks: int) -> bool:
    """Whether the module has exactly this many forward hooks, and no other hooks."""
    state = module.__dict__  # an attribute costs a call of `Module.__getattr__`, and this runs for each small layer
    return len(state["_forward_hooks"]) == hooks and not (
        state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or module._compiled_call_impl is not None
        or "forward" in state
        or "gate" in state
    )


def _is_large(x: Tensor, *, attention: bool) -> bool:
    """Whether x is large enough for the operator to be faster, and the kernel is available.

    Under `torch.compile` the operator runs in training at any size, because a comparison would specialize on the size.
    In inference, and on GPUs, Inductor fuses plain operations. Measured on CPUs: benchmarks/compile.json.
    """
    if torch.jit.is_tracing():
        return False
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled() and x.is_cpu and not torch.compiler.is_exporting() and kernel_available()
    return is_large(x, MIN_ELEMENTS[attention, torch.is_grad_enabled()])


def is_large(x: Tensor, minimum: int) -> bool:
    """Whether x is a feature map large enough for an operator to be faster, and a back end computes it.

    Args:
        x: Any tensor.
        minimum: Smallest number of elements.
    """
    elements = x.numel()
    if elements < minimum or x.ndim != 4:
        return False
    backend = backend_for(x)
    if backend is None or backend.name == "triton":
        return backend is not None and elements >= GPU_MIN_ELEMENTS
    short = x.shape[2] * x.shape[3] < SHORT_RUN and x.is_contiguous()
    return not short or elements >= SHORT_RUNS_COST * minimum


@torch.compiler.assume_constant_result
def kernel_available() -> bool:
    """Whether the operators run on the compiled kernel."""
    return choose().library is not None


def _is_fusible(se: nn.Module) -> bool:
    """Whether it is the identity, or attention without hooks that the operator supports."""
    if type(se) is nn.Identity:
        return True
    return (
        type(se) is SqueezeExcite
        and se.squeeze is spatial_mean
        and se.activate in GATE_NUMBERS
        and type(se.fc1) is nn.Linear
        and type(se.fc2) is nn.Linear
        and untouched(se, se.fc1, se.fc2)
    )


def _fused(x: Tensor, norm: nn.BatchNorm2d, se: nn.Module | None, shortcut: Tensor | None) -> Tensor | None:
    """Return the operator's result. None if it doesn't accept these tensors, or would differ from the modules."""
    statistics = running_statistics(norm, x)
    if statistics is None:
        return None
    training = norm.training or norm.running_mean is None
    w1 = b1 = w2 = b2 = None
    gate = 0
    if isinstance(se, SqueezeExcite):
        w1, b1, w2, b2 = se.fc1.weight, se.fc1.bias, se.fc2.weight, se.fc2.bias
        gate = GATE_NUMBERS[se.activate]
        if x.dtype is not torch.float32 and not torch.is_autocast_enabled(x.device.type):
            return None  # the linear layers raise their own error
    # The statistics are checked even if they are only written.
    if not SIGNATURE.takes((x, shortcut, norm.weight, norm.bias, *statistics, w1, b1, w2, b2)):
        return None
    used = (None, None) if training else statistics
    y, of_batch, _ = bn_se_add_relu(
        x, shortcut, norm.weight, norm.bias, *used, w1, b1, w2, b2, training, norm.eps, gate
    )  # fmt: skip
    update_running_statistics(norm, of_batch)
    return y


def running_statistics(norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor | None, Tensor | None] | None:
    """Return running mean and variance. None if an operator can't compute this norm of x as the module does."""
    mean, var = norm.running_mean, norm.running_var
    if (mean is None) != (var is None) or (norm.training and x.numel() == x.shape[1]):
        return None  # the norm raises its own error
    given = [t for t in (mean, var) if t is not None]
    if any(t.requires_grad for t in given) or (_tracks(norm) and not all(t.is_contiguous() for t in given)):
        return None  # statistics that share memory can't be written
    return mean, var


def _tracks(norm: nn.BatchNorm2d) -> bool:
    return norm.training and norm.track_running_stats and norm.running_mean is not None


@torch.no_grad()
def update_running_statistics(norm: nn.BatchNorm2d, statistics: Tensor) -> None:
    """Update the running statistics as `nn.BatchNorm2d` does, if it does.

    Args:
        norm: The norm.
        statistics: Mean and unbiased variance of the batch, (2, C).
    """
    if not _tracks(norm):
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    batches = norm.num_batches_tracked if norm.momentum is None else None
    update_running(norm.running_mean, norm.running_var, statistics, norm.momentum or 0.0, batches)
