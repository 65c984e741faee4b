"""The first pass of the residual backward step: the shortcut's gradient and two sums, and the gate's gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.functions import gate_slope, gate_value
from senet.ops.triton.join import STEP, joined
from senet.ops.triton.place import centred, norm_at, place, place_of_sample
from senet.ops.triton.plan import Plan, launch, power

__all__ = ["gate_gradient", "residual_sums"]


def residual_sums(
    dy: Tensor, x: Tensor, y: Tensor | None, saved: Tensor, gamma: Tensor | None, beta: Tensor | None,
    gate: Tensor | None, function: int, plan: Plan, masked: Tensor | None,
) -> Tensor:  # fmt: skip
    """Return the partial sums of g and g * (x - mean), (2, parts, C), where g is dy behind the ReLU.

    Args:
        dy: (N, C, H, W).
        x: (N, C, H, W).
        y: The result, which decides what the ReLU let through. None if there was no shortcut: x and gate decide.
        saved: From `channel_moments`.
        gamma: (C,) or None.
        beta: (C,) or None.
        gate: N * C numbers, the argument of the gate's function. None for no gate.
        function: Number of the gate's function.
        plan: Of x.
        masked: Into g, (N, C, H, W), the shortcut's gradient. None to leave it out.
    """
    partial = torch.empty((2, plan.samples * plan.chunks, plan.channels), dtype=torch.float32, device=x.device)
    launch(
        _residual_sums, plan.programs, x, dy, x, y, saved, gamma, beta, gate, masked, partial, plan.channels,
        partial.stride(0), *plan.sizes, GATE=function, **plan.blocks,
    )  # fmt: skip
    return partial


def gate_gradient(
    partial: Tensor, deviations: Tensor, saved: Tensor, gamma: Tensor | None, beta: Tensor | None, gate: Tensor,
    function: int, plan: Plan,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Join the sums; return them, (2, N, C), the gradient of the gate's argument, and mean(norm(x)), (N, C) each.

    Args:
        partial: From `residual_sums`.
        deviations: From `sample_means`.
        saved: From `channel_moments`.
        gamma: (C,) or None.
        beta: (C,) or None.
        gate: N * C numbers, the argument of the gate's function.
        function: Number of the gate's function.
        plan: Of the pass.
    """
    found = torch.empty((4, plan.samples, plan.channels), dtype=torch.float32, device=partial.device)
    launch(
        _gate_gradient, plan.samples * plan.panels, partial, partial, deviations, saved, gamma, beta, gate, found,
        plan.channels, partial.stride(0), found.stride(0), plan.chunks, plan.panels, GATE=function,
        BLOCK_K=min(STEP, power(plan.chunks)), BLOCK_C=plan.BLOCK_C,
    )  # fmt: skip
    return found[:2], found[2], found[3]


@triton.jit(do_not_specialize=["pixels", "rows", "chunks", "panels"])
def _residual_sums(
    dy, x, y, saved, gamma, beta, gate, masked, partial, channels,
    apart, pixels, rows, chunks, panels, GATE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, part, first, count, c = place(pixels, rows, chunks, panels, BLOCK_C)
    inside = c < channels
    mean, error, scale, offset = norm_at(saved, gamma, beta, c, inside, channels)
    s = tl.full((BLOCK_C,), 1.0, tl.float32)
    if gate is not None:
        s = gate_value(tl.load(gate + sample.to(tl.int64) * channels + c, mask=inside, other=0.0), GATE)
    start_of_part = (sample.to(tl.int64) * pixels + first) * channels
    x += start_of_part
    dy += start_of_part
    level = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    along = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, count, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        there = (r < count)[:, None] & inside[None, :]
        at = r[:, None] * channels + c[None, :]
        t = centred(tl.load(x + at, mask=there, other=0.0), mean, error)
        if y is not None:
            sign = tl.load(y + start_of_part + at, mask=there, other=0.0).to(tl.float32)
        else:
            sign = (t * scale[None, :] + offset[None, :]) * s[None, :]
        g = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        g = tl.where(sign <= 0, 0.0, g)
        if masked is not None:
            tl.store(masked + start_of_part + at, g.to(masked.dtype.element_ty), mask=there)
        level += g
        along += g * t
    to = partial + part.to(tl.int64) * channels + c
    tl.store(to, tl.sum(level, 0), mask=inside)
    tl.store(to + apart, tl.sum(along, 0), mask=inside)


@triton.jit(do_not_specialize=["chunks", "panels"])
def _gate_gradient(
    partial, deviations, saved, gamma, beta, gate, found, channels, apart,
    found_apart, chunks, panels, GATE: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, c = place_of_sample(panels, BLOCK_C)
    inside = c < channels
    partial += sample.to(tl.int64) * chunks * channels
    level = joined(partial, c, channels, chunks, BLOCK_K, BLOCK_C)
    along = joined(partial + apart, c, channels, chunks, BLOCK_K, BLOCK_C)
    _, _, scale, offset = norm_at(saved, gamma, beta, c, inside, channels)
    at = sample.to(tl.int64) * channels + c
    slope = gate_slope(tl.load(gate + at, mask=inside, other=0.0), GATE)
    found += at
    tl.store(found, level, mask=inside)
    tl.store(found + found_apart, along, mask=inside)
    tl.store(found + 2 * found_apart, (along * scale + level * offset) * slope, mask=inside)
    z = tl.load(deviations + at, mask=inside, other=0.0) * scale + offset
    tl.store(found + 3 * found_apart, z, mask=inside)
