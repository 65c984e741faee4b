"""Spatial attention: one factor per position."""

from __future__ import annotations

from typing import final

from torch import Tensor

from senet.nn._dims import CONV
from senet.nn.attention import Attention
from senet.nn.initialization import gate_function, zero

__all__ = ["SpatialSqueezeExcite"]


@final
class SpatialSqueezeExcite(Attention):
    """Rescale each position using its channels: a 1x1 convolution, then a sigmoid (sSE).

    Args:
        channels: Channels C of the feature map.
        init: "default", or "identity": the output first equals the input, with the gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, 1, *spatial).

    Raises:
        SenetError: The input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Roy et al. 2018 (arXiv 1803.02579), section 2.2.
    Differs: the convolution has a bias, as in the authors' code. `init="identity"` is not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import SpatialSqueezeExcite
        >>> SpatialSqueezeExcite(16).gate(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
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
