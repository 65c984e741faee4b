"""`senet::scale_add_relu_`: the end of a residual block whose gate is known; for inference."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.ops.bn_se_add_relu import _run, _step
from senet.ops.cpu import pointer

__all__ = ["scale_add_relu_"]


@torch.library.custom_op("senet::scale_add_relu_", mutates_args=("x",), device_types="cpu")
def scale_add_relu_(x: Tensor, gate: Tensor, shortcut: Tensor) -> None:
    """Let x become `relu(gate * x + shortcut)`; for inference, without derivative.

    Args:
        x: As in `bn_se_add_relu`.
        gate: (N, C), float32.
        shortcut: As x, in the same memory format.
    """
    step = _step(x, (), False, 0.0, 0)
    _run("senet_tail_rescale", step, *map(pointer, (x, gate, shortcut, x)))
