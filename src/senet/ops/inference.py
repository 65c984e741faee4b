"""The condition for the kernel's functions without a derivative: plain tensors on the CPU, and no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from senet.ops.arguments import eager
from senet.ops.cpu import choose

__all__ = ["takes"]


def takes(x: Tensor, parameters: Sequence[Tensor | None], dtype: torch.dtype = torch.float32) -> bool:
    """Whether the kernel can compute on these tensors now. Callers compare sizes.

    Args:
        x: A feature map, (N, C, H, W).
        parameters: Other tensors. They must be contiguous.
        dtype: The type of all tensors.
    """
    if x.dtype is not dtype or type(x) not in _PLAIN or x.ndim != 4 or not x.is_cpu or not x.numel():
        return False
    gradient = torch.is_grad_enabled()
    if gradient and x.requires_grad:
        return False
    for t in parameters:
        if t is None:
            continue
        if t.dtype is not dtype or type(t) not in _PLAIN or not t.is_cpu or not t.is_contiguous():
            return False
        if gradient and t.requires_grad:
            return False
    return choose().library is not None and eager(x) and not torch.is_autocast_enabled("cpu")


_PLAIN: Final = (Tensor, nn.Parameter)
