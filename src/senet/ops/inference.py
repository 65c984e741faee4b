"""The condition for the kernel's functions without a derivative: plain float32 tensors on the CPU, and no gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from senet.ops.arguments import eager, needs_gradient
from senet.ops.cpu import choose

__all__ = ["takes"]


def takes(x: Tensor, parameters: Sequence[Tensor | None]) -> bool:
    """Whether the kernel can compute on these tensors now. Callers compare sizes.

    Args:
        x: A feature map, (N, C, H, W).
        parameters: Other tensors. They must be contiguous.
    """
    return bool(
        choose().library is not None
        and x.ndim == 4
        and _is_plain(x)
        and x.numel() > 0
        and all(t is None or (_is_plain(t) and t.is_contiguous()) for t in parameters)
        and eager(x, *parameters)
        and not torch.is_autocast_enabled("cpu")
        and not needs_gradient((x, *parameters))
    )


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.dtype is torch.float32 and tensor.is_cpu
