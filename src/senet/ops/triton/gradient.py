"""The second pass of each backward step: the gradients of gamma and beta, and that of x.

With `dv = (s * g + m) * a'(v)`, where g is dy (behind the ReLU of the residual epilogue) and m the gradient by way of
the squeeze, `dx = k * (dv - mean(dv) - n * mean(dv * n))`, n = (x - mean) / deviation and k = gamma / deviation.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.functions import activation_slope, gate_value
from senet.ops.triton.place import centred, norm_at, place
from senet.ops.triton.plan import Plan, launch, power

__all__ = ["channel_gradients", "input_gradient"]

ROWS = 512  # sums that one step of a reduction reads
PANEL = 8  # channels of a program that reduces


def channel_gradients(
    sums: Tensor, squeezed: Tensor | None, saved: Tensor, gate: Tensor | None, dz: Tensor | None, function: int,
    plan: Plan, dgamma: Tensor | None, dbeta: Tensor | None,
) -> Tensor:  # fmt: skip
    """Return mean(dv) and mean(dv * n) / deviation of each channel, (2, C). All processes could sum them after it.

    Args:
        sums: Of g a' and g a' (x - mean), (2, rows, C). One row a sample if there is a gate.
        squeezed: With a gate: the sums of a' and a' (x - mean), (2, N, C), or mean(x - mean), N * C numbers, if a is
            the identity.
        saved: From `channel_moments`.
        gate: N * C numbers, the argument of the gate's function. None for no gate.
        dz: The gradient of the squeeze's means, N * C numbers.
        function: Number of the gate's function, or `GIVEN`.
        plan: Of x.
        dgamma: Into gamma's gradient, (C,). None to leave it out.
        dbeta: Into beta's gradient, (C,). None to leave it out.
    """
    found = torch.empty((2, plan.channels), dtype=torch.float32, device=saved.device)
    rows = sums.shape[1]
    launch(
        _channel_gradients, -(-plan.channels // PANEL), sums, sums, squeezed, saved, gate, dz, dgamma, dbeta, found,
        plan.channels, sums.stride(0), rows, plan.samples, plan.pixels, GATE=function,
        IDENTITY=squeezed is not None and squeezed.ndim == 1, BLOCK_R=min(ROWS, power(rows)), BLOCK_C=PANEL,
    )  # fmt: skip
    return found


def input_gradient(
    dy: Tensor, x: Tensor, saved: Tensor, gamma: Tensor | None, beta: Tensor | None, gate: Tensor | None,
    dz: Tensor | None, of_channels: Tensor | None, plan: Plan, dx: Tensor, *, function: int, activation: int = 0,
    rectify: bool = False,
) -> None:  # fmt: skip
    """Compute the gradient of x.

    Args:
        dy: (N, C, H, W). Behind the ReLU unless `rectify`.
        x: (N, C, H, W).
        saved: From `channel_moments`.
        gamma: (C,) or None.
        beta: (C,) or None.
        gate: N * C numbers, the argument of the gate's function. None for no gate.
        dz: The gradient of the squeeze's means, N * C numbers, or None.
        of_channels: From `channel_gradients`, if the norm used the statistics of the batch.
        plan: Of x.
        dx: (N, C, H, W).
        function: Number of the gate's function, or `GIVEN`.
        activation: Number of the activation.
        rectify: Whether the result was `relu(s * norm(x))`, whose sign x decides.
    """
    launch(
        _input_gradient, plan.programs, x, dy, x, saved, gamma, beta, gate, dz, of_channels, dx, plan.channels,
        *plan.sizes, GATE=function, ACTIVATION=activation, RECTIFY=rectify, **plan.blocks,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows", "samples", "pixels"])
def _channel_gradients(
    sums, squeezed, saved, gate, dz, dgamma, dbeta, found, channels,
    apart, rows, samples, pixels, GATE: tl.constexpr, IDENTITY: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    level = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    along = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(0, rows, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        there = (r < rows)[:, None] & inside[None, :]
        at = r.to(tl.int64)[:, None] * channels + c[None, :]
        of_level = tl.load(sums + at, mask=there, other=0.0)
        of_along = tl.load(sums + apart + at, mask=there, other=0.0)
        if gate is not None:
            s = gate_value(tl.load(gate + at, mask=there, other=0.0), GATE)
            m = tl.load(dz + at, mask=there, other=0.0) / pixels
            if IDENTITY:
                slopes = pixels.to(tl.float32)
                slopes_along = tl.load(squeezed + at, mask=there, other=0.0) * pixels
            else:
                slopes = tl.load(squeezed + at, mask=there, other=0.0)
                slopes_along = tl.load(squeezed + apart + at, mask=there, other=0.0)
            of_level = s * of_level + m * slopes
            of_along = s * of_along + m * slopes_along
        level += of_level
        along += of_along
    inverse = tl.load(saved + 2 * channels + c, mask=inside, other=0.0)
    of_beta = tl.sum(level, 0)
    of_gamma = tl.sum(along, 0) * inverse
    if dgamma is not None:
        tl.store(dgamma + c, of_gamma, mask=inside)
    if dbeta is not None:
        tl.store(dbeta + c, of_beta, mask=inside)
    of_all = samples.to(tl.float32) * pixels.to(tl.float32)
    tl.store(found + c, of_beta / of_all, mask=inside)
    tl.store(found + channels + c, of_gamma * inverse / of_all, mask=inside)


@triton.jit(do_not_specialize=["pixels", "rows", "chunks", "panels"])
def _input_gradient(
    dy, x, saved, gamma, beta, gate, dz, of_channels, dx, channels,
    pixels, rows, chunks, panels, GATE: tl.constexpr, ACTIVATION: tl.constexpr,
    RECTIFY: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, _, first, count, c = place(pixels, rows, chunks, panels, BLOCK_C)
    inside = c < channels
    mean, error, scale, offset = norm_at(saved, gamma, beta, c, inside, channels)
    of_sample = sample.to(tl.int64) * channels + c
    s = tl.full((BLOCK_C,), 1.0, tl.float32)
    if gate is not None:
        s = gate_value(tl.load(gate + of_sample, mask=inside, other=0.0), GATE)
    m = tl.zeros((BLOCK_C,), tl.float32)
    if dz is not None:
        m = tl.load(dz + of_sample, mask=inside, other=0.0) / pixels
    level, slope = tl.zeros((BLOCK_C,), tl.float32), tl.zeros((BLOCK_C,), tl.float32)
    if of_channels is not None:
        level = tl.load(of_channels + c, mask=inside, other=0.0)
        slope = tl.load(of_channels + channels + c, mask=inside, other=0.0)
    start_of_part = (sample.to(tl.int64) * pixels + first) * channels
    dy += start_of_part
    dx += start_of_part
    for start in range(0, count, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        there = (r < count)[:, None] & inside[None, :]
        at = r[:, None] * channels + c[None, :]
        dv = tl.load(dy + at, mask=there, other=0.0).to(tl.float32)
        if RECTIFY or ACTIVATION != 0 or of_channels is not None:
            t = centred(tl.load(x + start_of_part + at, mask=there, other=0.0), mean, error)
            v = t * scale[None, :] + offset[None, :]
        if RECTIFY:
            dv = tl.where(v * s[None, :] <= 0, 0.0, dv)
        dv = dv * s[None, :] + m[None, :]
        if ACTIVATION != 0:
            dv *= activation_slope(v, ACTIVATION)
        if of_channels is not None:
            dv -= level[None, :] + slope[None, :] * t
        tl.store(dx + at, (dv * scale[None, :]).to(dx.dtype.element_ty), mask=there)
