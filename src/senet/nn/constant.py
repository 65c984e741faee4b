"""A constant gate, independent of its input."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from senet.errors import SenetError
from senet.nn._dims import over_space
from senet.nn.attention import Attention

__all__ = ["ConstantGate"]


@final
class ConstantGate(Attention):
    """Rescale each channel by a constant factor. `senet.freeze` replaces attention by it.

    Args:
        factors: (C,), one per channel, stored as a buffer.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (1, C, 1, ...).

    Raises:
        SenetError: The factors are not a vector, or the input has the wrong rank or channels.

    Source: Hu et al. 2018, section 7.2 (saturated gates act as a constant rescaling).

    Example:
        >>> import torch
        >>> from senet.nn import ConstantGate
        >>> ConstantGate(torch.tensor([0.0, 2.0]))(torch.ones(1, 2, 1, 1)).flatten()
        tensor([0., 2.])
    """

    factors: Tensor

    def __init__(self, factors: Tensor, *, ndim: int = 2) -> None:
        if factors.ndim != 1:
            raise SenetError(f"factors must be a vector (C,), got shape {tuple(factors.shape)}")
        super().__init__(len(factors), ndim=ndim)
        self.register_buffer("factors", torch.clone(factors.detach()))

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (1, C, 1, ...)."""
        return over_space(self.factors[None], x)
