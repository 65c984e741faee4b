"""The cost of a single layer."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["layer_cost"]


def layer_cost(layer: nn.Module, shape: Sequence[int]) -> tuple[int, int]:
    """Return the parameters of a layer, and its MACs for one feature map of shape (any, C, *spatial)."""
    duplicate = copy.deepcopy(layer).eval().to("meta")
    like = next(duplicate.parameters(), torch.zeros(()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        duplicate(torch.empty(1, *shape[1:], dtype=like.dtype, device="meta"))
    return sum(p.numel() for p in layer.parameters()), counter.get_total_flops() // 2
