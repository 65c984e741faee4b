"""Mean and variance of each channel, and the mean of each sample and channel, from one pass over x.

A program adds up the differences from the first pixel of its own part. Then mean and squared deviations of all parts
are combined (Chan et al. 1979), so a large mean does not cancel, whatever the first pixel of the map is. The means of
parts are differences from one pivot for each channel: the map's first pixel in training, else the running mean.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.place import norm_at, place, place_of_sample
from senet.ops.triton.plan import Plan, launch, power

__all__ = ["channel_moments", "measure", "sample_means"]

ROWS = 512  # partial sums that one step of a reduction reads
PANEL = 8  # channels of a program that reduces: 32 bytes


def measure(x: Tensor, pivot: Tensor, plan: Plan) -> Tensor:
    """Read x once: return mean less pivot, and squared deviations, of each part of each sample, (2, parts, C).

    Args:
        x: (N, C, H, W).
        pivot: C numbers, near the mean.
        plan: Of x.
    """
    partial = torch.empty((2, plan.samples * plan.chunks, plan.channels), dtype=torch.float32, device=x.device)
    launch(_measure, plan.programs, x, x, pivot, partial, plan.channels, partial.stride(0), *plan.sizes, **plan.blocks)
    return partial


def channel_moments(
    partial: Tensor | None, pivot: Tensor | None, var: Tensor | None, eps: float, plan: Plan,
    statistics: Tensor, saved: Tensor,
) -> None:  # fmt: skip
    """Compute the statistics of each channel. All processes of a synchronized norm could combine them after it.

    Args:
        partial: From `measure`, to use the statistics of the batch. Else None.
        pivot: As in `measure`; the running mean without `partial`; None without a norm.
        var: The running variance, without `partial`.
        eps: Of the norm.
        plan: Of x.
        statistics: Into mean and unbiased variance, (2, C).
        saved: Into mean, the mean's rounding error and 1 / sqrt(var + eps), (3 C,).
    """
    parts = plan.samples * plan.chunks
    launch(
        _channel_moments, -(-plan.channels // PANEL), saved, partial, pivot, var, statistics, saved, eps,
        plan.channels, 0 if partial is None else partial.stride(0), parts, plan.samples, *plan.sizes[:3],
        BLOCK_R=min(ROWS, power(parts)), BLOCK_C=PANEL,
    )  # fmt: skip


def sample_means(
    partial: Tensor, pivot: Tensor, saved: Tensor, gamma: Tensor | None, beta: Tensor | None, plan: Plan,
    deviations: Tensor | None, z: Tensor,
) -> None:  # fmt: skip
    """Compute the means of each sample from the sums of its parts.

    Args:
        partial: From `measure`.
        pivot: As in `measure`.
        saved: From `channel_moments`.
        gamma: (C,) or None.
        beta: (C,) or None.
        plan: Of x.
        deviations: Into mean(x) less the channel's mean, N * C numbers. None to leave them out.
        z: Into mean(norm(x)), N * C numbers.
    """
    launch(
        _sample_means, plan.samples * plan.panels, z, partial, pivot, saved, gamma, beta, deviations, z,
        plan.channels, *plan.sizes, BLOCK_K=min(ROWS, power(plan.chunks)), BLOCK_C=plan.BLOCK_C,
    )  # fmt: skip


@triton.jit(do_not_specialize=["pixels", "rows", "chunks", "panels"])
def _measure(
    x, pivot, partial, channels, apart, pixels, rows, chunks, panels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, part, first, count, c = place(pixels, rows, chunks, panels, BLOCK_C)
    inside = c < channels
    near = tl.load(pivot + c, mask=inside, other=0.0).to(tl.float32)
    x += (sample.to(tl.int64) * pixels + first) * channels
    shift = tl.load(x + c, mask=inside, other=0.0).to(tl.float32) - near
    sums = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, count, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        there = (r < count)[:, None] & inside[None, :]
        value = tl.load(x + (r[:, None] * channels + c[None, :]), mask=there, other=0.0).to(tl.float32)
        off = tl.where(there, (value - near[None, :]) - shift[None, :], 0.0)
        sums += off
        squares += off * off
    total = tl.sum(sums, 0)
    mean = total / count
    at = part.to(tl.int64) * channels + c
    tl.store(partial + at, shift + mean, mask=inside)
    tl.store(partial + apart + at, tl.sum(squares, 0) - total * mean, mask=inside)


@triton.jit(do_not_specialize=["eps", "parts", "samples", "pixels", "rows", "chunks"])
def _channel_moments(
    partial, pivot, var, statistics, saved, eps, channels, apart, parts,
    samples, pixels, rows, chunks, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    mean = tl.zeros((BLOCK_C,), tl.float32)
    if pivot is not None:
        mean = tl.load(pivot + c, mask=inside, other=0.0).to(tl.float32)
    error = tl.zeros((BLOCK_C,), tl.float32)
    of_all = samples.to(tl.float32) * pixels.to(tl.float32)
    if partial is not None:
        sums = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        for start in range(0, parts, BLOCK_R):
            r = start + tl.arange(0, BLOCK_R)
            there = (r < parts)[:, None] & inside[None, :]
            at = partial + (r.to(tl.int64)[:, None] * channels + c[None, :])
            count = tl.minimum(pixels - r % chunks * rows, rows).to(tl.float32)
            sums += tl.load(at, mask=there, other=0.0) * count[:, None]
        off = tl.sum(sums, 0) / of_all
        squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        for start in range(0, parts, BLOCK_R):
            r = start + tl.arange(0, BLOCK_R)
            there = (r < parts)[:, None] & inside[None, :]
            at = partial + (r.to(tl.int64)[:, None] * channels + c[None, :])
            count = tl.minimum(pixels - r % chunks * rows, rows).to(tl.float32)
            between = tl.load(at, mask=there, other=0.0) - off[None, :]
            within = tl.load(at + apart, mask=there, other=0.0)
            squares += tl.where(there, within + between * between * count[:, None], 0.0)
        deviations = tl.sum(squares, 0)
        near = mean
        mean = near + off
        rounded = mean - near
        error = (near - (mean - rounded)) + (off - rounded)
        variance = deviations / of_all
        unbiased = deviations / tl.maximum(of_all - 1, 1.0)
        inverse = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    elif var is not None:
        variance = tl.load(var + c, mask=inside, other=1.0)
        unbiased = variance * (of_all / tl.maximum(of_all - 1, 1.0))
        inverse = tl.div_rn(1.0, tl.sqrt_rn(variance + eps))
    else:  # no norm
        inverse = tl.full((BLOCK_C,), 1.0, tl.float32)
        unbiased = inverse
    tl.store(statistics + c, mean, mask=inside)
    tl.store(statistics + channels + c, unbiased, mask=inside)
    tl.store(saved + c, mean, mask=inside)
    tl.store(saved + channels + c, error, mask=inside)
    tl.store(saved + 2 * channels + c, inverse, mask=inside)


@triton.jit(do_not_specialize=["pixels", "rows", "chunks", "panels"])
def _sample_means(
    partial, pivot, saved, gamma, beta, deviations, z, channels, pixels,
    rows, chunks, panels, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, c = place_of_sample(panels, BLOCK_C)
    inside = c < channels
    partial += sample.to(tl.int64) * chunks * channels
    sums = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    for start in range(0, chunks, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        there = (k < chunks)[:, None] & inside[None, :]
        count = tl.minimum(pixels - k * rows, rows).to(tl.float32)
        sums += tl.load(partial + (k[:, None] * channels + c[None, :]), mask=there, other=0.0) * count[:, None]
    mean, error, scale, offset = norm_at(saved, gamma, beta, c, inside, channels)
    near = tl.load(pivot + c, mask=inside, other=0.0).to(tl.float32)
    off = (tl.sum(sums, 0) / pixels - (mean - near)) - error
    at = sample.to(tl.int64) * channels + c
    if deviations is not None:
        tl.store(deviations + at, off, mask=inside)
    tl.store(z + at, off * scale + offset, mask=inside)
