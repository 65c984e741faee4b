"""A 1x1 convolution with what follows it in a residual unit, by the compiled kernel; for inference.

No PyTorch operator: one written in Python costs tens of microseconds a call, and a network has dozens of these. So the
caller must know that nothing watches or traces. What can be is prepared once: between two calls a network's maps and
weights go through the caches, and Python's own work, read from memory again, takes ten times as long as in a loop.
"""

from __future__ import annotations

import ctypes
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.cpu import choose, pointer

__all__ = ["Pointwise"]


class _Layer(ctypes.Structure):
    """`struct senet_pointwise` of kernel.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("c", "inner", "hidden", "gate")),
        *((name, ctypes.c_void_p) for name in ("panels", "bias", "w1", "b1", "w2", "b2")),
    )


@final
class Pointwise:
    """`relu(s * (weight x + bias) + shortcut)`, with `s = gate(w2 relu(w1 mean(x) + b1) + b2)`.

    The weight is copied; the others are read where they are: they may change in place, but neither move nor be freed.

    Args:
        weight: (C', C, 1, 1); like all else float32, contiguous, in the processor's memory.
        bias: (C',).
        w1: (C'', C).
        b1: (C'',) or None.
        w2: (C', C'').
        b2: (C',) or None.
        gate: Its position (excite.h).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, *, gate: int
    ) -> None:
        library = choose().library
        assert library is not None
        assert all(t is None or t.dtype == torch.float32 for t in (weight, bias, w1, b1, w2, b2))
        self._run = library.senet_pointwise
        self._run.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 3]
        channels, inner = weight.shape[:2]
        width = library.senet_panel()
        filled = F.pad(weight.detach().flatten(1), (0, 0, 0, -channels % width))
        self._panels = filled.unflatten(0, (-1, width)).transpose(1, 2).contiguous()
        rest = map(pointer, (bias, w1, b1, w2, b2))
        self._layer = _Layer(channels, inner, w1.shape[0], gate, self._panels.data_ptr(), *rest)
        self._address = ctypes.addressof(self._layer)

    def __call__(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """Compute it.

        Args:
            x: (N, C, H, W), channels_last.
            shortcut: (N, C', H, W), channels_last.

        Returns:
            As `shortcut`.
        """
        n, _, height, width = x.shape
        y = torch.empty_like(shortcut)
        shape = (n, height * width, torch.get_num_threads())
        if self._run(self._address, *shape, x.data_ptr(), shortcut.data_ptr(), y.data_ptr()):
            raise MemoryError("no memory for the end of a residual unit")
        return y
