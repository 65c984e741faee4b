"""A bfloat16 convolution with its weight packed for the tile instructions of CPUs (AMX). For inference.

As in `packed_convolution`, the packed weight is an ordinary tensor, and the only copy. Its layout is the same on every
machine. Without the instructions, PyTorch computes with the unpacked weight.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from senet.ops.cpu import choose
from senet.ops.cpu.library import call

__all__ = ["available", "convolve", "pack_tiles", "packed_layer", "unpack_tiles"]

DEPTH: Final = 32
"""Input channels of a tile."""
COLUMNS: Final = 32
"""Output channels of a panel: two tiles."""

# `struct senet_convolution_bf16` of kernel.h: channels, kernel, stride, padding, dilation, activation; hidden units,
# gates, activation of the hidden units, gate function; panels, bias, w1, b1, w2, b2.
_LAYER: Final = struct.Struct("@15q6P")


def available() -> bool:
    """Whether the kernel has a convolution for bfloat16 on this CPU."""
    library = choose().library
    return library is not None and _has_bf16(library)


@cache
def _has_bf16(library: object) -> bool:
    return bool(library.senet_has_bf16())  # type: ignore[attr-defined]


def pack_tiles(weight: Tensor) -> Tensor:
    """Pack a convolution's weight, (C, I, Y, X) -> (ceil(C / 32), Y, X, ceil(I / 32), 16, 32, 2). The rest is zero.

    Example:
        >>> import torch
        >>> from senet.ops.tiled_convolution import pack_tiles, unpack_tiles
        >>> weight = torch.rand(40, 20, 3, 3)
        >>> tiles = pack_tiles(weight)
        >>> tiles.shape, torch.equal(unpack_tiles(tiles, 40, 20), weight)
        (torch.Size([2, 3, 3, 1, 16, 32, 2]), True)
    """
    channels, inner = weight.shape[:2]
    filled = F.pad(weight.permute(2, 3, 1, 0), (0, -channels % COLUMNS, 0, -inner % DEPTH))
    split = filled.unflatten(3, (-1, COLUMNS)).unflatten(2, (-1, DEPTH // 2, 2))  # (Y, X, K, 16, 2, P, 32)
    return split.permute(5, 0, 1, 2, 3, 6, 4).contiguous()


def unpack_tiles(tiles: Tensor, channels: int, inner: int) -> Tensor:
    """Return the weight, (C, I, Y, X), from the tiles of `pack_tiles`."""
    weight = tiles.permute(0, 5, 3, 4, 6, 1, 2)  # (P, 32, K, 16, 2, Y, X)
    return weight.flatten(2, 4).flatten(0, 1)[:channels, :inner]


def packed_layer(
    channels: int,
    inner: int,
    parameters: Sequence[Tensor | None],
    geometry: Sequence[int],
    functions: tuple[int, int] = (0, 0),
) -> bytes:
    """Return the structure that describes a convolution to the kernel.

    Args:
        channels: Of the output.
        inner: Channels of the input.
        parameters: Tiles, bias, and the layers of a gate of the output (w1, b1, w2, b2) or None. All contiguous.
        geometry: Stride, padding, dilation (two numbers each), and the number of the activation.
        functions: Numbers of the activation of the gate's hidden units, and of the gate's function.
    """
    tiles, _, w1, _, w2, _ = parameters
    assert tiles is not None
    hidden, gates = (0, 0) if w1 is None or w2 is None else (len(w1), len(w2))
    return _LAYER.pack(
        channels, inner, *tiles.shape[1:3], *geometry, hidden, gates, *functions,
        *(0 if t is None else t.data_ptr() for t in parameters),
    )  # fmt: skip


def convolve(
    layer: bytes,
    x: Tensor,
    y: Tensor,
    *,
    scale: Tensor | None = None,
    added: Tensor | None = None,
    gate: Tensor | None = None,
) -> None:
    """Compute `act(scale * (conv(x) + bias) + added)` into y by the kernel. Callers check sizes and types.

    Args:
        layer: From `packed_layer`.
        x: (N, I, H, W). All tensors but gates are bfloat16.
        y: (N, C, H', W'), channels_last.
        scale: (N, C), float32. None is 1.
        added: (N, C, H', W'). None is zero.
        gate: (N, gates), float32, where the gate of the output is put, for a layer that has one.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    added = None if added is None else added.contiguous(memory_format=torch.channels_last)
    call(
        "senet_convolve_bf16", layer, len(x), *x.shape[2:], *y.shape[2:], torch.get_num_threads(), x.data_ptr(),
        0 if scale is None else scale.data_ptr(), 0 if added is None else added.data_ptr(), y.data_ptr(),
        0 if gate is None else gate.data_ptr(),
    )  # fmt: skip
