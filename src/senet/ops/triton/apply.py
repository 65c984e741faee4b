"""Write the result: `relu(s * norm(x) + shortcut)`, or `s * a(norm(x))`, from one pass over x."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.functions import activate, gate_value, relu
from senet.ops.triton.place import centred, norm_at, place
from senet.ops.triton.plan import Plan, launch

__all__ = ["apply"]


def apply(
    x: Tensor, shortcut: Tensor | None, saved: Tensor | None, gamma: Tensor | None, beta: Tensor | None,
    gate: Tensor | None, plan: Plan, y: Tensor, *, function: int, activation: int = 0, rectify: bool = False,
) -> None:  # fmt: skip
    """Compute the result into y, which may be x.

    Args:
        x: (N, C, H, W).
        shortcut: (N, C, H, W), added before the ReLU. None is zero.
        saved: From `channel_moments`. None for no norm.
        gamma: (C,) or None.
        beta: (C,) or None.
        gate: N * C numbers, the argument of the gate's function. None for no gate.
        plan: Of x.
        y: (N, C, H, W).
        function: Number of the gate's function, or `GIVEN`.
        activation: Number of the activation before the gate.
        rectify: Whether a ReLU comes last.
    """
    launch(
        _apply, plan.programs, x, x, shortcut, saved, gamma, beta, gate, y, plan.channels, *plan.sizes,
        GATE=function, ACTIVATION=activation, RECTIFY=rectify, **plan.blocks,
    )  # fmt: skip


@triton.jit(do_not_specialize=["pixels", "rows", "chunks", "panels"])
def _apply(
    x, shortcut, saved, gamma, beta, gate, y, channels, pixels, rows,
    chunks, panels, GATE: tl.constexpr, ACTIVATION: tl.constexpr, RECTIFY: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
) -> None:  # fmt: skip
    sample, _, first, count, c = place(pixels, rows, chunks, panels, BLOCK_C)
    inside = c < channels
    mean, error, scale, offset = norm_at(saved, gamma, beta, c, inside, channels)
    s = tl.full((BLOCK_C,), 1.0, tl.float32)
    if gate is not None:
        s = gate_value(tl.load(gate + sample.to(tl.int64) * channels + c, mask=inside, other=0.0), GATE)
    start_of_part = (sample.to(tl.int64) * pixels + first) * channels
    x += start_of_part
    y += start_of_part
    for start in range(0, count, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        there = (r < count)[:, None] & inside[None, :]
        at = r[:, None] * channels + c[None, :]
        v = centred(tl.load(x + at, mask=there, other=0.0), mean, error) * scale[None, :] + offset[None, :]
        v = activate(v, ACTIVATION) * s[None, :]
        if shortcut is not None:
            v += tl.load(shortcut + start_of_part + at, mask=there, other=0.0).to(tl.float32)
        if RECTIFY:
            v = relu(v)
        tl.store(y + at, v.to(y.dtype.element_ty), mask=there)
