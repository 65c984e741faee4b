"""The back end that computes a feature map's operators: the kernel in C, Triton, or neither."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from senet.ops import triton
from senet.ops.cpu import choose, gated_step, step
from senet.ops.setting import VARIABLE

__all__ = ["CPU_DTYPES", "GPU_DTYPES", "Backend", "backend_for", "describe", "runs_triton", "using"]

CPU_DTYPES: Final = (torch.float32, torch.bfloat16)
GPU_DTYPES: Final = (*CPU_DTYPES, torch.float16)


@dataclass(frozen=True)
class Backend:
    """The steps of the operators in one back end. The modules of all back ends have the same functions.

    Attributes:
        name: "compiled" or "triton".
        step: The residual epilogue, as `senet.ops.cpu.step`.
        gated_step: Norm, activation and gate, as `senet.ops.cpu.gated_step`.
    """

    name: str
    step: Any
    gated_step: Any


def backend_for(x: Tensor) -> Backend | None:
    """Return the back end for a feature map. None if only the definition computes it.

    Args:
        x: (N, C, H, W). The compiled kernel takes any layout of a CPU tensor, Triton channels_last on a GPU.

    Example:
        >>> import torch
        >>> from senet.ops.backend import backend_for
        >>> backend_for(torch.ones(1, 2, 3, 4, dtype=torch.float64)) is None
        True
    """
    if x.is_cpu and not triton.interpreted():
        return _COMPILED if x.dtype in CPU_DTYPES and choose().library is not None else None
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return _triton() if channels_last and x.dtype in GPU_DTYPES and runs_triton(x) else None


def runs_triton(x: Tensor) -> bool:
    """Whether the Triton back end is on, and computes on the device of a tensor."""
    return (x.is_cuda or (x.is_cpu and triton.interpreted())) and triton.state().on


_COMPILED: Final = Backend("compiled", step, gated_step)


@cache
def _triton() -> Backend:
    from senet.ops.triton import gated_step as gated
    from senet.ops.triton import step as whole

    return Backend("triton", whole, gated)


def describe() -> str:
    """Describe the back end on CPUs in one line.

    Example:
        >>> from senet.ops import describe
        >>> describe().partition(" ")[0] in ("compiled", "reference")
        True
    """
    chosen = choose()
    return f"{'reference' if chosen.library is None else 'compiled'} ({chosen.reason})"


@contextmanager
def using(requested: str) -> Iterator[None]:
    """Select the back ends within the block, as `SENET_KERNELS` does. The previous choice is restored after it.

    Args:
        requested: "compiled", "reference" or "triton".

    Example:
        >>> from senet.ops import describe, using
        >>> with using("reference"):
        ...     print(describe())
        reference (SENET_KERNELS=reference)
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = requested
    _forget()
    try:
        choose()
        yield
    finally:
        _forget()
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _forget() -> None:
    choose.cache_clear()
    triton.state.cache_clear()
