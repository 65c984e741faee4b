"""The mean of the activated norm for each sample and channel: one pass over x."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.functions import activate
from senet.ops.triton.join import join
from senet.ops.triton.place import centred, norm_at, place
from senet.ops.triton.plan import Plan, launch

__all__ = ["activated_mean"]


def activated_mean(
    x: Tensor, saved: Tensor, gamma: Tensor | None, beta: Tensor | None, activation: int, plan: Plan, z: Tensor
) -> None:
    """Compute the mean of a(v) into z, N * C numbers.

    Args:
        x: (N, C, H, W).
        saved: From `channel_moments`.
        gamma: (C,) or None.
        beta: (C,) or None.
        activation: Number of the activation.
        plan: Of x.
        z: The means.
    """
    partial = torch.empty((1, plan.samples * plan.chunks, plan.channels), dtype=torch.float32, device=x.device)
    launch(
        _activated_sums, plan.programs, x, x, saved, gamma, beta, partial, plan.channels, *plan.sizes,
        ACTIVATION=activation, **plan.blocks,
    )  # fmt: skip
    join(partial, z, plan, divisor=plan.pixels)


@triton.jit(do_not_specialize=["pixels", "rows", "chunks", "panels"])
def _activated_sums(
    x, saved, gamma, beta, partial, channels, pixels, rows, chunks,
    panels, ACTIVATION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, part, first, count, c = place(pixels, rows, chunks, panels, BLOCK_C)
    inside = c < channels
    mean, error, scale, offset = norm_at(saved, gamma, beta, c, inside, channels)
    x += (sample.to(tl.int64) * pixels + first) * channels
    sums = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, count, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        there = (r < count)[:, None] & inside[None, :]
        value = tl.load(x + (r[:, None] * channels + c[None, :]), mask=there, other=0.0)
        v = centred(value, mean, error) * scale[None, :] + offset[None, :]
        sums += tl.where(there, activate(v, ACTIVATION), 0.0)
    tl.store(partial + part.to(tl.int64) * channels + c, tl.sum(sums, 0), mask=inside)
