"""The first pass of the gated backward step: five sums of each sample and channel, for the small gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.functions import activate, activation_slope
from senet.ops.triton.join import join
from senet.ops.triton.place import centred, norm_at, place
from senet.ops.triton.plan import Plan, launch

__all__ = ["gated_sums"]


def gated_sums(
    dy: Tensor, x: Tensor, saved: Tensor, gamma: Tensor | None, beta: Tensor | None, activation: int, plan: Plan,
    sums: Tensor,
) -> None:  # fmt: skip
    """Compute the sums of dy a(v), dy a'(v), dy a'(v) t, a'(v) and a'(v) t with t = x - mean into (5, N, C).

    Args:
        dy: (N, C, H, W).
        x: (N, C, H, W).
        saved: From `channel_moments`.
        gamma: (C,) or None.
        beta: (C,) or None.
        activation: Number of the activation a.
        plan: Of x.
        sums: The sums.
    """
    partial = torch.empty((5, plan.samples * plan.chunks, plan.channels), dtype=torch.float32, device=x.device)
    launch(
        _gated_sums, plan.programs, x, dy, x, saved, gamma, beta, partial, plan.channels, partial.stride(0),
        *plan.sizes, ACTIVATION=activation, **plan.blocks,
    )  # fmt: skip
    join(partial, sums, plan)


@triton.jit(do_not_specialize=["pixels", "rows", "chunks", "panels"])
def _gated_sums(
    dy, x, saved, gamma, beta, partial, channels, apart, pixels, rows,
    chunks, panels, ACTIVATION: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, part, first, count, c = place(pixels, rows, chunks, panels, BLOCK_C)
    inside = c < channels
    mean, error, scale, offset = norm_at(saved, gamma, beta, c, inside, channels)
    start_of_part = (sample.to(tl.int64) * pixels + first) * channels
    x += start_of_part
    dy += start_of_part
    zero = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    of_gate, level, along, slopes, slopes_along = zero, zero, zero, zero, zero
    for start in range(0, count, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        there = (r < count)[:, None] & inside[None, :]
        at = r[:, None] * channels + c[None, :]
        t = centred(tl.load(x + at, mask=there, other=0.0), mean, error)
        g = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        v = t * scale[None, :] + offset[None, :]
        slope = tl.where(there, activation_slope(v, ACTIVATION), 0.0)
        of_gate += g * activate(v, ACTIVATION)
        level += g * slope
        along += g * slope * t
        slopes += slope
        slopes_along += slope * t
    to = partial + part.to(tl.int64) * channels + c
    tl.store(to, tl.sum(of_gate, 0), mask=inside)
    tl.store(to + apart, tl.sum(level, 0), mask=inside)
    tl.store(to + 2 * apart, tl.sum(along, 0), mask=inside)
    tl.store(to + 3 * apart, tl.sum(slopes, 0), mask=inside)
    tl.store(to + 4 * apart, tl.sum(slopes_along, 0), mask=inside)
