"""The tensors that fused operators accept. One signature serves the selection and the operator's own checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.ops.backend import CPU_DTYPES, GPU_DTYPES, backend_for
from senet.ops.gate_functions import GATE_FUNCTIONS

__all__ = [
    "FEATURE_MAP_DTYPES",
    "Signature",
    "convolution_size",
    "eager",
    "gradients_by_autograd",
    "is_observed",
    "loop_over_batch",
    "memory_format",
    "needs_gradient",
]

FEATURE_MAP_DTYPES: Final = CPU_DTYPES


@dataclass(frozen=True)
class Signature:
    """The tensors of an operator.

    Attributes:
        operator: Name of the operator, for messages.
        tensors: Name and dimensions of each tensor, in the order of the arguments. Each dimension is a letter. Equal
            letters mean equal sizes. Tensors of four dimensions that begin with N are feature maps. They have one
            type, float32 or bfloat16. All other tensors are float32.
        optional: Names of the tensors that may be None.
        gpu: Whether GPUs have a back end too. Then the tensors may be on any one device, and feature maps float16.
    """

    operator: str
    tensors: tuple[tuple[str, str], ...]
    optional: frozenset[str]
    gpu: bool = False

    def mismatch(self, tensors: Sequence[Tensor | None]) -> str:
        """Return why the operator doesn't accept these tensors. Empty if it does.

        This compares sizes, types and devices. Any strides are accepted.
        """
        sizes: dict[str, int] = {}
        kind: torch.dtype | None = None
        device: torch.device | None = None
        dtypes, half = (GPU_DTYPES, "of one 16-bit type") if self.gpu else (CPU_DTYPES, "bfloat16")
        for (name, dims), tensor in zip(self.tensors, tensors, strict=True):
            if tensor is None:
                if name not in self.optional:
                    return f"{name} is missing"
                continue
            shape = tensor.shape
            if len(shape) != len(dims):
                return f"{name} has shape {tuple(shape)}; it must be ({', '.join(dims)})"
            for dim, size in zip(dims, shape, strict=True):
                if sizes.setdefault(dim, size) != size:
                    wanted = ", ".join(f"{d}={sizes[d]}" if d in sizes else d for d in dims)
                    return f"{name} has shape {tuple(shape)}; it must be ({wanted})"
            dtype = tensor.dtype
            if len(dims) == 4 and dims[0] == "N":
                kind = kind or dtype
                if dtype not in dtypes or dtype is not kind:
                    return f"{name} is {dtype}; feature maps must all be float32, or all {half}"
            elif dtype is not torch.float32:
                return f"{name} is {dtype}; it must be float32"
            device = device or tensor.device
            if tensor.device != device or tensor.is_meta:
                return f"{name} is on {tensor.device}; all tensors must be on one device, and not on meta"
            if not (self.gpu or tensor.is_cpu):
                return f"{name} is on {tensor.device}; it must be on the CPU"
        return ""

    def check(self, tensors: Sequence[Tensor | None]) -> None:
        """Raise an error with the reason of `mismatch`.

        Raises:
            ValueError: The operator doesn't accept these tensors.
        """
        reason = self.mismatch(tensors)
        if reason:
            raise ValueError(f"{self.operator}: {reason}")

    def check_gate(self, w1: Tensor | None, b1: Tensor | None, w2: Tensor | None, b2: Tensor | None, gate: int) -> None:
        """Check the two linear layers of a gate and the number of its function. Without w1 there is no gate.

        Raises:
            ValueError: A layer is missing or has no hidden unit, or `GATE_FUNCTIONS` has no such number.
        """
        if (w1 is None) != (w2 is None) or (w1 is None and (b1 is not None or b2 is not None)):
            raise ValueError(f"{self.operator}: w1 and w2 must be given together, and biases only with them")
        if w1 is not None and w1.shape[0] < 1:
            raise ValueError(f"{self.operator}: w1 has no hidden unit")
        if not 0 <= gate < len(GATE_FUNCTIONS):
            raise ValueError(f"{self.operator}: gate={gate} is out of range; use 0..{len(GATE_FUNCTIONS) - 1}")

    def takes(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether the operator can replace plain operations on these tensors now.

        The tensors must match the signature, be ordinary (no subclass, not batched) and not empty, and the first must
        have a back end. No mode, transform or tracer may be active.
        """
        first: Any = tensors[0]  # never None
        return (
            (_compiled() or eager(*tensors))
            and all(t is None or type(t) is Tensor or type(t) is nn.Parameter for t in tensors)
            and not self.mismatch(tensors)
            and first.numel() > 0
            and _has_backend(first)
        )


def _private_names() -> tuple[Any, ...] | None:
    """Return the private torch functions that `eager` calls. None if this version lacks one."""
    try:
        functorch = torch._C._functorch
        stacks = (torch._C._len_torch_dispatch_stack, torch._C._len_torch_function_stack)
        interpreter, batched = functorch.peek_interpreter_stack, functorch.is_legacy_batchedtensor
        level = torch.autograd.forward_ad._current_level
    except AttributeError:
        return None
    return (*stacks, interpreter, batched) if isinstance(level, int) else None


_PRIVATE: Final = _private_names()


def eager(*tensors: Tensor | None) -> bool:
    """Whether operations run eagerly under plain autograd: no tracing, no mode, no function transform.

    Batched gradients (`is_grads_batched`) are batched tensors without a transform around them.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _PRIVATE is None:
        return False
    dispatch_modes, function_modes, interpreter, is_batched = _PRIVATE
    return not (
        dispatch_modes()
        or function_modes()
        or interpreter() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or any(t is not None and is_batched(t) for t in tensors)
    )


def is_observed() -> bool:
    """Whether a mode, a transform or a profiler observes each operator."""
    return not eager() or getattr(torch.autograd.profiler, "_is_profiler_enabled", False)


def _compiled() -> bool:
    """Whether `torch.compile` is tracing. It supports the operators. `torch.export` gets plain operations instead."""
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


def _has_backend(x: Tensor) -> bool:
    """Whether a back end computes a feature map. Under `torch.compile`, Inductor does on GPUs."""
    return x.is_cpu and x.dtype in CPU_DTYPES if _compiled() else backend_for(x) is not None


def needs_gradient(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd must record operations on these tensors."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def gradients_by_autograd(
    y: Tensor, inputs: Sequence[Tensor | None], needed: Sequence[bool], dy: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the needed inputs of y, and None for others. Differentiable where gradients are recorded.

    Args:
        y: Computed from the inputs while gradients were recorded.
        inputs: The inputs.
        needed: Whether each needs a gradient.
        dy: The gradient of y.
    """
    wanted = [t for t, is_needed in zip(inputs, needed, strict=True) if is_needed and t is not None]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return tuple(next(found) if is_needed else None for is_needed in needed)


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the memory format for a feature map: channels_last if it has this format, else contiguous."""
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def convolution_size(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return height and width of a convolution's output. Below 1 if the kernel is larger than the padded input."""
    return [(x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]


def loop_over_batch(
    operator: Callable[..., Any], info: Any, dims: Sequence[Any], arguments: Sequence[Any]
) -> list[Any]:
    """Apply the batching rule of the operators: one call per element of a `torch.vmap`.

    Args:
        operator: Called once per element.
        info: From `torch.library.register_vmap`, like the other arguments.
        dims: The batched dimension of each argument. Not a number for arguments without one.
        arguments: The arguments of the operator.
    """
    return [
        operator(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(arguments, dims, strict=True)))
        for i in range(info.batch_size)
    ]
