"""What the fused operators take: one description of an operator's tensors serves its choice and its own checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.ops.gate_functions import GATE_FUNCTIONS

__all__ = ["MAP_TYPES", "Signature", "convolved", "eager", "memory_format", "needs_gradient", "one_by_one", "watched"]

MAP_TYPES: Final = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Signature:
    """The tensors of an operator.

    Attributes:
        operator: Its name, for messages.
        tensors: Name of each tensor, in the order of the arguments, to its dimensions: one letter each, and one letter
            means one size everywhere. Those of four dimensions that begin with N are feature maps; they have one
            type, float32 or bfloat16. All others are float32.
        optional: Names of the tensors that may be None.
    """

    operator: str
    tensors: tuple[tuple[str, str], ...]
    optional: frozenset[str]

    def mismatch(self, tensors: Sequence[Tensor | None]) -> str:
        """Why the operator can't take these tensors; empty if it can.

        Sizes that belong together, types and devices are all compared; strides may be any.
        """
        sizes: dict[str, int] = {}
        kind: torch.dtype | None = None
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
                if dtype not in MAP_TYPES or dtype is not kind:
                    return f"{name} is {dtype}; feature maps must all be float32, or all bfloat16"
            elif dtype is not torch.float32:
                return f"{name} is {dtype}; it must be float32"
            if not tensor.is_cpu:
                return f"{name} is on {tensor.device}; it must be on the CPU"
        return ""

    def check(self, tensors: Sequence[Tensor | None]) -> None:
        """Raise what `mismatch` finds.

        Raises:
            ValueError: The operator can't take these tensors.
        """
        reason = self.mismatch(tensors)
        if reason:
            raise ValueError(f"{self.operator}: {reason}")

    def check_gate(self, w1: Tensor | None, b1: Tensor | None, w2: Tensor | None, b2: Tensor | None, gate: int) -> None:
        """Raise if these are no two layers of a gate and its number; without w1 there is no gate.

        Raises:
            ValueError: A layer is missing or has no block, or the number is none of `GATE_FUNCTIONS`.
        """
        if (w1 is None) != (w2 is None) or (w1 is None and (b1 is not None or b2 is not None)):
            raise ValueError(f"{self.operator}: w1 and w2 come together, and biases with them")
        if w1 is not None and w1.shape[0] < 1:
            raise ValueError(f"{self.operator}: w1 has no hidden unit")
        if not 0 <= gate < len(GATE_FUNCTIONS):
            raise ValueError(f"{self.operator}: gate={gate} is none; use 0..{len(GATE_FUNCTIONS) - 1}")

    def takes(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether the operator can stand for plain operations on these tensors now.

        That is so if it accepts them, they are ordinary tensors (no subclass, not batched), there is something to
        compute, and nothing watches or transforms the operations.
        """
        return (
            (_compiled() or eager(*tensors))
            and all(t is None or type(t) is Tensor or type(t) is nn.Parameter for t in tensors)
            and not self.mismatch(tensors)
            and tensors[0].numel() > 0  # type: ignore[union-attr] # the first is never None
        )


def _private_names() -> tuple[Any, ...] | None:
    """Torch's own names for what `eager` asks; None where this version lacks one: nothing is eager then."""
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
    """Whether numbers are computed now and derived by autograd backwards: no tracing, no mode, no function transform.

    Gradients that are computed in batches (`is_grads_batched`) are batched tensors without a transform around them.
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


def watched() -> bool:
    """Whether somebody wants to see each operator: a mode, a transform, a profiler."""
    return not eager() or getattr(torch.autograd.profiler, "_is_profiler_enabled", False)


def _compiled() -> bool:
    """Whether `torch.compile` is at work, which knows the operators; `torch.export` shall see plain ones."""
    return torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()


def needs_gradient(tensors: Sequence[Tensor | None]) -> bool:
    """Whether autograd must see what is computed from these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def memory_format(x: Tensor) -> torch.memory_format:
    """The memory format in which a feature map is computed: its own, or contiguous where it has neither."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def convolved(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Height and width of a convolution's result; below 1 where the kernel is larger than the padded image."""
    return [(x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]


def one_by_one(operator: Callable[..., Any], info: Any, dims: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """The batching rule of the operators: what each call of a `torch.vmap` gives.

    Args:
        operator: Is called once for each.
        info: As `torch.library.register_vmap` hands it over, and so are the others.
        dims: The batched dimension of each argument; no number where it is the same in all calls.
        arguments: Of the operator.
    """
    return [
        operator(*(a.select(d, i) if isinstance(d, int) else a for a, d in zip(arguments, dims, strict=True)))
        for i in range(info.batch_size)
    ]
