"""Attention over space: which positions matter."""

from __future__ import annotations

from typing import final

from torch import Tensor

from senet.nn._dims import CONV
from senet.nn.attention import Attention
from senet.nn.start import gate_function, zero

__all__ = ["SpatialSqueezeExcite"]


@final
class SpatialSqueezeExcite(Attention):
    """Rescale each position by what its own channels show: a 1x1 convolution, then a sigmoid (sSE).

    Args:
        channels: Channels C of the map.
        init: "default", or "identity": output equals input at the start, with the gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, 1, *spatial).

    Raises:
        SenetError: The input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Roy et al. 2018 (arXiv 1803.02579), section 2.2.
    Differs: the convolution has a bias, as in the authors' code; `init="identity"` is not in the paper.
    """

    def __init__(self, channels: int, *, init: str = "default", ndim: int = 2) -> None:
        super().__init__(channels, ndim=ndim)
        self.activate = gate_function("sigmoid", init)
        self.conv = CONV[ndim](channels, 1, 1)
        if init == "identity":
            zero(self.conv)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, 1, *spatial)."""
        return self.activate(self.conv(x))
