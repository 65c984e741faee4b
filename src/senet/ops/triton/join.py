"""Add the partial sums of the parts of each sample, in a fixed order."""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.place import place_of_sample
from senet.ops.triton.plan import Plan, launch, power

__all__ = ["join", "joined"]

STEP: Final = 64
"""Partial sums that one step of a program reads for each channel."""


def join(partial: Tensor, sums: Tensor, plan: Plan, *, divisor: int = 1) -> None:
    """Add the parts.

    Args:
        partial: (K, N * parts, C).
        sums: Into K * N * C numbers.
        plan: Of the pass that wrote them.
        divisor: Of the sums.
    """
    kinds = len(partial)
    launch(
        _join, kinds * plan.samples * plan.panels, partial, partial, sums, divisor, plan.channels, plan.chunks,
        plan.panels, BLOCK_K=min(STEP, power(plan.chunks)), BLOCK_C=plan.BLOCK_C,
    )  # fmt: skip


@triton.jit(do_not_specialize=["divisor", "chunks", "panels"])
def _join(
    partial, sums, divisor, channels, chunks, panels, BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    row, c = place_of_sample(panels, BLOCK_C)  # of all kinds
    total = joined(partial + row.to(tl.int64) * chunks * channels, c, channels, chunks, BLOCK_K, BLOCK_C)
    tl.store(sums + row.to(tl.int64) * channels + c, total / divisor, mask=c < channels)


@triton.jit
def joined(
    partial,
    c,
    channels,
    chunks,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The sum of `chunks` rows of partial sums."""
    inside = c < channels
    sums = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    for start in range(0, chunks, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        there = (k < chunks)[:, None] & inside[None, :]
        sums += tl.load(partial + (k[:, None] * channels + c[None, :]), mask=there, other=0.0)
    return tl.sum(sums, 0)
