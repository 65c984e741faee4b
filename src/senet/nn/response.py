"""Global response normalization: channels are rescaled by their norm relative to the other channels."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor, nn

from senet.nn._dims import over_space
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.initialization import INITS
from senet.nn.squeeze import wide

__all__ = ["GlobalResponseNorm"]

EPSILON: Final = 1e-6


@final
class GlobalResponseNorm(Attention):
    """Rescale each channel by its norm over the mean norm, and shift it: `x * (1 + weight * n) + bias` (GRN).

    Args:
        channels: Channels C of the feature map.
        init: "default" or "identity". Both are the published initialization, zeros, where the output is the input.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, C, 1, ...).

    Raises:
        SenetError: The input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Woo et al. 2023 (ConvNeXt V2, arXiv 2301.00808), eqs. 1-3 and Algorithm 1.

    Example:
        >>> import torch
        >>> from senet.nn import GlobalResponseNorm
        >>> grn, x = GlobalResponseNorm(32), torch.rand(2, 32, 8, 6)
        >>> torch.equal(grn(x), x)
        True
    """

    def __init__(self, channels: int, *, init: str = "default", ndim: int = 2) -> None:
        super().__init__(channels, ndim=ndim)
        look_up("init", init, INITS)
        self.rescales = False
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, 1, ...): 1 + weight * n."""
        norm = torch.linalg.vector_norm(wide(x), dim=tuple(range(2, x.ndim)))
        relative = norm / (norm.mean(1, keepdim=True) + EPSILON)
        return over_space(1 + self.weight * relative, x).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x * gate(x) + bias`, (N, C, *spatial)."""
        return super().forward(x) + over_space(self.bias[None], x).to(x.dtype)
