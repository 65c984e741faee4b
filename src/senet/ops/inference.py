"""The kernel's functions without a derivative: when they run, and what is prepared for them once."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.ops.arguments import eager
from senet.ops.cpu import choose

__all__ = ["Prepared", "is_traced", "takes"]


def takes(
    x: Tensor, parameters: Sequence[Tensor | None], dtype: torch.dtype = torch.float32, added: Tensor | None = None
) -> bool:
    """Whether the kernel can compute on these tensors now. Callers compare sizes.

    Args:
        x: A feature map, (N, C, H, W).
        parameters: Other tensors. They must be contiguous.
        dtype: The type of all tensors.
        added: Another feature map.
    """
    gradient = torch.is_grad_enabled()
    for t in (x,) if added is None else (x, added):
        if t.dtype is not dtype or type(t) not in _PLAIN or t.ndim != 4 or not t.is_cpu or not t.numel():
            return False
        if gradient and t.requires_grad:
            return False
    for p in parameters:
        if p is None:
            continue
        if p.dtype is not dtype or type(p) not in _PLAIN or not p.is_cpu or not p.is_contiguous():
            return False
        if gradient and p.requires_grad:
            return False
    return choose().library is not None and eager(x, added) and not torch.is_autocast_enabled("cpu")


def is_traced() -> bool:
    """Whether a compiler or an exporter is tracing, which gets the modules' plain operations."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class Prepared:
    """What a layer passes to the kernel about its parameters, checked and packed once, since that takes longer than a
    small feature map.

    It holds as long as the layer has the same tensors, of the same type, in the same places of the memory. So it ends
    where a layer is moved, cast, or given other parameters. A copy of the layer prepares anew.

    Args:
        key: Anything else that it depends on.
        tensors: The parameters. None for a missing one.
        packed: The structure for the kernel.
    """

    def __init__(self, key: Any = None, tensors: Sequence[Tensor | None] = (), packed: bytes = b"") -> None:
        self.key, self.tensors, self.packed = key, tensors, packed
        self.states = _states(tensors)

    def holds(self, key: Any, tensors: Sequence[Tensor | None]) -> bool:
        """Whether it is valid for these tensors now, where no gradient is recorded."""
        return (
            key == self.key
            and len(tensors) == len(self.tensors)
            and all(map(is_, tensors, self.tensors))
            and _states(tensors) == self.states
            and not torch.is_grad_enabled()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Prepared, ()


def _states(tensors: Sequence[Tensor | None]) -> list[tuple[Any, ...]]:
    return [(t.data_ptr(), t.nbytes, t.dtype, t.is_contiguous()) for t in tensors if t is not None]


_PLAIN: Final = (Tensor, nn.Parameter)
