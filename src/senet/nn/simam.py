"""SimAM: a gate without parameters, from how much each position differs from its channel."""

from __future__ import annotations

from typing import Final, final

import torch
from torch import Tensor

from senet.nn.attention import Attention
from senet.nn.squeeze import wide

__all__ = ["SimpleAttention"]

LAMBDA: Final = 1e-4
"""The regularization of the energy, the value of the paper's experiments."""


@final
class SimpleAttention(Attention):
    """Rescale each position by the sigmoid of its inverse energy, without parameters (SimAM).

    Args:
        channels: Channels C of the feature map.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape.

    Raises:
        SenetError: The input has the wrong rank or channels.

    Source: Yang et al. 2021 (ICML, "SimAM"), eqs. 5-6, with lambda 1e-4.
    Differs: the variance is over all M positions, as the paper defines it. The authors' code divides by M - 1, which a
        1x1 feature map doesn't allow. There is no identity initialization: nothing can be set, and the gate is
        sigmoid(1/2) or more.

    Example:
        >>> import torch
        >>> from senet.nn import SimpleAttention
        >>> SimpleAttention(1).gate(torch.zeros(1, 1, 1, 1)).item()
        0.622459352016449
    """

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial)."""
        space = tuple(range(2, x.ndim))
        values = wide(x)
        squares = (values - values.mean(space, keepdim=True)).square()
        variance = squares.mean(space, keepdim=True)
        inverse_energy = squares / (4 * (variance + LAMBDA)) + 0.5
        return torch.sigmoid(inverse_energy).to(x.dtype)
