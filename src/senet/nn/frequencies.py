"""The squeeze of FcaNet: each group of channels is summarized by one frequency of a discrete cosine transform."""

from __future__ import annotations

from itertools import product
from math import pi
from typing import final

import torch
from torch import Tensor

from senet.errors import SenetError
from senet.nn.squeeze import wide

__all__ = ["Frequencies", "lowest_frequencies"]


def lowest_frequencies(count: int, ndim: int) -> list[tuple[int, ...]]:
    """Return the `count` lowest frequencies of a transform over `ndim` axes, by their sum.

    The first is zero, whose coefficient is the mean.

    Example:
        >>> from senet.nn.frequencies import lowest_frequencies
        >>> lowest_frequencies(4, ndim=2)
        [(0, 0), (0, 1), (1, 0), (0, 2)]
    """
    # The n^ndim frequencies of a cube have sums below n * ndim, so the lowest ones are among these.
    side = range(next(n for n in range(1, count + 1) if n**ndim >= count) * ndim)
    return sorted(product(side, repeat=ndim), key=lambda f: (sum(f), f))[:count]


@final
class Frequencies:
    """Summarize each channel by one coefficient of a discrete cosine transform, divided by the number of positions.

    The channels form `count` groups in order, and each group has its own frequency. One frequency is the mean.

    Args:
        channels: Channels C of the feature map.
        count: Number of frequencies, up to C.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> (N, C).

    Raises:
        SenetError: The count is below 1 or above C.

    Source: Qin et al. 2021 (FcaNet, arXiv 2012.11820), eqs. 3 and 11, with the lowest frequencies ("FcaNet-LF").
    Differs: the coefficient is divided by the number of positions. The transform covers the feature map of any size,
        as in the equations. The authors' code pools to a fixed size and multiplies the indices by size // 7, so
        that index u at size 56 is frequency 8u. The selection "TS", indices found on ImageNet, is left out.

    Example:
        >>> import torch
        >>> from senet.nn import Frequencies
        >>> x = torch.rand(2, 8, 7, 7)
        >>> bool(torch.allclose(Frequencies(8, 1, ndim=2)(x), x.mean((2, 3))))
        True
    """

    def __init__(self, channels: int, count: int, ndim: int) -> None:
        if not 1 <= count <= channels:
            raise SenetError(f"frequencies={count} is out of range; use 1..{channels}")
        lowest = lowest_frequencies(count, ndim)
        self.of_channel = [lowest[c * count // channels] for c in range(channels)]

    def __call__(self, x: Tensor) -> Tensor:
        """Return one coefficient for each channel, (N, C)."""
        rest = wide(x)
        for axis in reversed(range(x.ndim - 2)):
            rest = (rest * self._cosines(axis, rest)).mean(-1)
        return rest.to(x.dtype)

    def _cosines(self, axis: int, rest: Tensor) -> Tensor:
        """cos(pi u (i + 1/2) / H) along the last axis of `rest`, (C, 1, ..., H)."""
        size = rest.shape[-1]
        u = torch.tensor([f[axis] for f in self.of_channel], device=rest.device, dtype=rest.dtype)
        position = (torch.arange(size, device=rest.device, dtype=rest.dtype) + 0.5) / size
        return (pi * u[:, None] * position).cos().reshape((len(self.of_channel),) + (1,) * (rest.ndim - 3) + (-1,))
