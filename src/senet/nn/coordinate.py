"""Coordinate attention: one gate along each axis, computed from strips in a shared bottleneck."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._strips import product_along, strips
from senet.nn.attention import Attention
from senet.nn.initialization import gate_function, zero

__all__ = ["CoordinateAttention"]


@final
class CoordinateAttention(Attention):
    """Rescale by channel and row times channel and column (coordinate attention).

    The strips of all axes share a 1x1 convolution, a norm and a hard swish. Each axis has its own last convolution.

    Args:
        channels: Channels C of the feature map.
        reduction: Reduction ratio r. The bottleneck has max(C // r, min_hidden) channels.
        min_hidden: Smallest number of channels of the bottleneck.
        bias: Whether the convolutions have biases.
        init: "default", or "identity": the output first equals the input, with each axis' gate 2 * sigmoid.
        ndim: Spatial dimensions, 1 to 3. With one the strip is the feature map.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape.

    Raises:
        SenetError: A number is below 1, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Hou et al. 2021 (arXiv 2103.02907), eqs. 4-9.
    Differs: the equations have no biases. The authors' code has them, timm's has none. The minimum of 8 channels is
        from the authors' code. One and three dimensions and `init="identity"` are not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import CoordinateAttention
        >>> coord, x = CoordinateAttention(64), torch.rand(2, 64, 8, 6)
        >>> [gate.shape for gate in coord.axis_gates(x)]
        [torch.Size([2, 64, 8]), torch.Size([2, 64, 6])]
        >>> coord.gate(x).shape
        torch.Size([2, 64, 8, 6])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 32,
        *,
        min_hidden: int = 8,
        bias: bool = True,
        init: str = "default",
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        if min(reduction, min_hidden) < 1:
            raise SenetError(f"reduction={reduction} and min_hidden={min_hidden} must be 1 or more")
        hidden = max(channels // reduction, min_hidden)
        self.activate = gate_function("sigmoid", init)
        self.reduce = nn.Conv1d(channels, hidden, 1, bias=bias)
        self.norm = nn.BatchNorm1d(hidden)
        self.expand = nn.ModuleList(nn.Conv1d(hidden, channels, 1, bias=bias) for _ in range(ndim))
        if init == "identity":
            for layer in self.expand:
                zero(layer)

    def axis_gates(self, x: Tensor) -> list[Tensor]:
        """Return the factors along each axis, [(N, C, H), (N, C, W)] for an image."""
        pooled = strips(x)
        hidden = F.hardswish(self.norm(self.reduce(torch.cat(pooled, 2))))
        parts = hidden.split([strip.shape[2] for strip in pooled], 2)
        return [self.activate(expand(part)) for expand, part in zip(self.expand, parts, strict=True)]

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial): the product over the axes."""
        return product_along(self.axis_gates(x))
