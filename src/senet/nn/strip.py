"""Strip attention: one gate from the sum of convolved strips."""

from __future__ import annotations

from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from senet.nn._strips import along, strips
from senet.nn.attention import Attention
from senet.nn.channel import check_odd
from senet.nn.initialization import gate_function, zero

__all__ = ["StripAttention"]


@final
class StripAttention(Attention):
    """Rescale each position using its row and its column: `x * sigmoid(f(rows + columns))` (strip pooling).

    Args:
        channels: Channels C of the feature map.
        kernel_size: Kernel size of the convolution along each strip, odd.
        depthwise: Whether these convolutions treat each channel separately.
        pointwise: Whether the 1x1 convolution f follows. Without it f is the identity.
        init: "default", or "identity": the output first equals the input, with the gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3. With one the strip is the feature map.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape.

    Raises:
        SenetError: The kernel size is even or below 1, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Hou et al. 2020 (strip pooling, arXiv 2003.13328), eqs. 1-4. With `depthwise=True, pointwise=False` it is
        timm's `StripAttn`.
    Differs: f is linear, so it is applied to the strips before they are expanded: same values, fewer operations. The
        authors' code has a batch norm after each strip and a ReLU before f, which the equations don't have. One
        and three dimensions and `init="identity"` are not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import StripAttention
        >>> strip = StripAttention(32, depthwise=True, pointwise=False)
        >>> sum(p.numel() for p in strip.parameters())
        192
        >>> strip(torch.rand(2, 32, 8, 6)).shape
        torch.Size([2, 32, 8, 6])
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel_size: int = 3,
        depthwise: bool = False,
        pointwise: bool = True,
        init: str = "default",
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        check_odd("kernel_size", kernel_size)
        groups = channels if depthwise else 1
        self.activate = gate_function("sigmoid", init)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
            for _ in range(ndim)
        )
        self.pointwise = nn.Conv1d(channels, channels, 1) if pointwise else None
        if init == "identity":
            for layer in self.convs if self.pointwise is None else [self.pointwise]:
                zero(layer)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial)."""
        convolved = [conv(strip) for conv, strip in zip(self.convs, strips(x), strict=True)]
        if self.pointwise is not None:
            convolved = self._mixed(convolved)
        return self.activate(reduce(torch.add, [along(strip, a, self.ndim) for a, strip in enumerate(convolved)]))

    def _mixed(self, parts: list[Tensor]) -> list[Tensor]:
        """Apply f to the sum of the parts. Its bias belongs to the sum, so only the first part gets it."""
        assert self.pointwise is not None
        weight, bias = self.pointwise.weight, self.pointwise.bias
        return [nn.functional.conv1d(part, weight, None if i else bias) for i, part in enumerate(parts)]
