"""A gate that no longer looks at its input."""

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
    """Rescale each channel by a fixed factor: what is left of attention whose gate doesn't vary.

    Args:
        factors: (C,), one for each channel; kept as a buffer.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (1, C, 1, ...).

    Raises:
        SenetError: The factors are no vector, or the input has the wrong rank or channels.

    Source: Hu et al. 2018, section 7.2 (gates that saturate act as a constant rescaling).
    """

    factors: Tensor

    def __init__(self, factors: Tensor, *, ndim: int = 2) -> None:
        if factors.ndim != 1:
            raise SenetError(f"factors of shape {tuple(factors.shape)} are no vector (C,)")
        super().__init__(len(factors), ndim=ndim)
        self.register_buffer("factors", torch.clone(factors.detach()))

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (1, C, 1, ...)."""
        return over_space(self.factors[None], x)
