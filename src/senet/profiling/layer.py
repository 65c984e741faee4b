"""What a single layer costs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["layer_cost"]


def layer_cost(layer: nn.Module, shape: Sequence[int]) -> tuple[int, int]:
    """Parameters of a layer, and its multiply-accumulates for one map of the shape (any, C, *space)."""
    bare = copy.deepcopy(layer).eval().to("meta")
    like = next(bare.parameters(), torch.zeros(()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bare(torch.empty(1, *shape[1:], dtype=like.dtype, device="meta"))
    return sum(p.numel() for p in layer.parameters()), counter.get_total_flops() // 2
