"""The gate of Squeeze-and-Excitation, and the scale, in one call. For inference.

Source: Hu et al. 2018, eqs. 2-4.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.activation_functions import ACTIVATION_FUNCTIONS
from senet.ops.cpu.library import call
from senet.ops.gate_functions import GATE_FUNCTIONS
from senet.ops.inference import takes

__all__ = ["Excitation", "excite", "layers_fit", "rescale"]

# `struct senet_excitation` of kernel.h: channels, gates, hidden units, activation, gate; w1, b1, w2, b2.
_LAYERS: Final = struct.Struct("@5q4P")


class Excitation(NamedTuple):
    """The two layers of a gate, `gate(w2 act(w1 mean + b1) + b2)`.

    Attributes:
        w1: (K, C), or as the weight of a 1x1 convolution.
        b1: (K,), or None.
        w2: (G, K), or as the weight of a 1x1 convolution. There are G gates, as many as channels unless they scale
            another feature map.
        b2: (G,), or None.
        activation: Number of the activation in `ACTIVATIONS`.
        gate: Number of the gate's function in `GATE_FUNCTIONS`.
    """

    w1: Tensor
    b1: Tensor | None
    w2: Tensor
    b2: Tensor | None
    activation: int
    gate: int

    def takes(self, x: Tensor, means: Tensor | None) -> bool:
        """Whether the kernel can compute the gate of x, (N, C, H, W), with means (N, C) or None, now."""
        layers = (self.w1, self.b1, self.w2, self.b2)
        return bool(
            x.ndim == 4
            and layers_fit(*layers, x.shape[1], len(self.w2))
            and (means is None or means.shape == x.shape[:2])
            and takes(x, (*layers, means))
        )

    def computed(self, means: Tensor) -> Tensor:
        """Return the gate in plain PyTorch, (N, C) -> (N, G)."""
        hidden = ACTIVATION_FUNCTIONS[self.activation](F.linear(means, self.w1.flatten(1), self.b1))
        return GATE_FUNCTIONS[self.gate](F.linear(hidden, self.w2.flatten(1), self.b2))


def layers_fit(w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, inner: int, channels: int) -> bool:
    """Whether these are layers from `inner` channels over hidden units to `channels`, linear or as 1x1 convolutions."""
    hidden = len(w1)
    return (
        hidden > 0
        and w1.shape[1] == inner
        and w1.numel() == hidden * inner
        and w2.shape[:2] == (channels, hidden)
        and w2.numel() == channels * hidden
        and (b1 is None or b1.shape == (hidden,))
        and (b2 is None or b2.shape == (channels,))
    )


def excite(x: Tensor, layers: Excitation, means: Tensor | None = None) -> Tensor:
    """Return the gate, (N, G).

    Args:
        x: (N, C, H, W).
        layers: The layers of the gate.
        means: The means of x, (N, C), where they are known.

    Example:
        >>> import torch
        >>> from senet.ops.excitation import Excitation, excite
        >>> layers = Excitation(torch.ones(2, 8), None, torch.ones(8, 2), None, activation=1, gate=0)
        >>> excite(torch.zeros(1, 8, 4, 4), layers)[0, 0]
        tensor(0.5000)
    """
    if not layers.takes(x, means) or not x.is_contiguous(memory_format=torch.channels_last):
        return layers.computed(x.mean((2, 3)) if means is None else means)
    return _run(x, layers, means, None)


def rescale(x: Tensor, layers: Excitation, means: Tensor | None = None, *, in_place: bool = False) -> Tensor:
    """Return `gate * x`, (N, C, H, W).

    Args:
        x: (N, C, H, W).
        layers: The layers of the gate.
        means: The means of x, (N, C), where they are known.
        in_place: Whether x may be overwritten.
    """
    fits = len(layers.w2) == x.shape[1] and layers.takes(x, means)
    if not fits or not x.is_contiguous(memory_format=torch.channels_last):
        return x * layers.computed(x.mean((2, 3)) if means is None else means)[:, :, None, None]
    y = x if in_place else torch.empty_like(x, memory_format=torch.channels_last)
    _run(x, layers, means, y)
    return y


def _run(x: Tensor, layers: Excitation, means: Tensor | None, y: Tensor | None) -> Tensor:
    n, c, height, width = x.shape
    gate = torch.empty((n, len(layers.w2)), dtype=x.dtype, device=x.device)
    packed = _LAYERS.pack(
        c, len(layers.w2), len(layers.w1), layers.activation, layers.gate,
        *(0 if t is None else t.data_ptr() for t in layers[:4]),
    )  # fmt: skip
    call(
        "senet_excite", packed, n, height * width, torch.get_num_threads(), x.data_ptr(),
        0 if means is None else means.data_ptr(), gate.data_ptr(), 0 if y is None else y.data_ptr(),
    )  # fmt: skip
    return gate
