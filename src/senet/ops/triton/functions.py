"""Activations, gates and their slopes within kernels, by their numbers. Values that are no number stay none.

Numbers: `ACTIVATIONS` of activation_functions.py, and `GATE_FUNCTIONS` of gate_functions.py.
"""

# branches on constants, decided when a kernel is compiled
from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

__all__ = ["GIVEN", "activate", "activation_slope", "gate_slope", "gate_value", "relu"]

GIVEN: Final = -1
"""The number for a gate that is given by its value."""


@triton.jit
def relu(v):
    """0 below 0. `tl.maximum` would turn NaN into 0."""
    return tl.where(v <= 0, 0.0, v)


@triton.jit
def activate(v, ACTIVATION: tl.constexpr):
    """The activation of v."""
    if ACTIVATION == 1:
        v = relu(v)
    elif ACTIVATION == 2:
        v = tl.where(v >= 6, 6.0, relu(v))
    elif ACTIVATION == 3:
        v = v * tl.sigmoid(v)
    elif ACTIVATION == 4:
        v = tl.where(v <= -3, 0.0, tl.where(v >= 3, v, v * (v + 3) * (1.0 / 6)))
    elif ACTIVATION == 5:
        v = 0.5 * v * (1 + tl.erf(v * 0.7071067811865476))
    return v


@triton.jit
def activation_slope(v, ACTIVATION: tl.constexpr):
    """The derivative of the activation at v."""
    if ACTIVATION == 0:
        slope = tl.full(v.shape, 1.0, tl.float32)
    elif ACTIVATION == 1:
        slope = tl.where(v > 0, 1.0, 0.0)
    elif ACTIVATION == 2:
        slope = tl.where((v > 0) & (v < 6), 1.0, 0.0)
    elif ACTIVATION == 3:
        s = tl.sigmoid(v)
        slope = s * (1 + v * (1 - s))
    elif ACTIVATION == 4:
        slope = tl.where(v < -3, 0.0, tl.where(v > 3, 1.0, v * (1.0 / 3) + 0.5))
    else:
        slope = 0.5 * (1 + tl.erf(v * 0.7071067811865476)) + v * 0.3989422804014327 * tl.exp(-0.5 * v * v)
    return slope


@triton.jit
def _hard_sigmoid(z):
    t = z * (1.0 / 6) + 0.5
    return tl.where(t <= 0, 0.0, tl.where(t >= 1, 1.0, t))


@triton.jit
def gate_value(z, GATE: tl.constexpr):
    """The gate from its argument, or from itself if `GATE` is `GIVEN`."""
    if GATE == 0:
        z = tl.sigmoid(z)
    elif GATE == 1:
        z = 2 * tl.sigmoid(z)
    elif GATE == 2:
        z = _hard_sigmoid(z)
    elif GATE == 3:
        z = 2 * _hard_sigmoid(z)
    elif GATE == 4:
        z = 2 * tl.sigmoid(2 * z) - 1
    elif GATE == 5:
        z = 2 * tl.sigmoid(2 * z)
    elif GATE == 6:
        z = relu(z)
    elif GATE == 7:
        z = relu(1 + z)
    return z


@triton.jit
def gate_slope(z, GATE: tl.constexpr):
    """The derivative of the gate at its argument."""
    if GATE <= 1:
        slope = (GATE + 1) * tl.sigmoid(z) * tl.sigmoid(-z)
    elif GATE <= 3:
        slope = tl.where((z > -3) & (z < 3), (GATE - 1) / 6.0, 0.0)
    elif GATE <= 5:
        slope = 4 * tl.sigmoid(2 * z) * tl.sigmoid(-2 * z)
    elif GATE == 6:
        slope = tl.where(z > 0, 1.0, 0.0)
    else:
        slope = tl.where(z > -1, 1.0, 0.0)
    return slope
