"""Efficient local attention: one gate along each axis, from a convolution of its strip."""

from __future__ import annotations

from math import gcd
from typing import final

from torch import Tensor, nn

from senet.nn._strips import product_along, strips
from senet.nn.attention import Attention
from senet.nn.channel import check_odd
from senet.nn.initialization import gate_function, zero

__all__ = ["EfficientLocalAttention"]


@final
class EfficientLocalAttention(Attention):
    """Rescale by channel and row times channel and column, each from a depthwise convolution of the strip (ELA).

    Args:
        channels: Channels C of the feature map.
        kernel_size: Positions that a factor sees along its axis, odd.
        norm_groups: Groups of the group norm. Of a number that doesn't divide C, the greatest common divisor is used.
        init: "default", or "identity": the output first equals the input, with each axis' gate 2 * sigmoid.
        ndim: Spatial dimensions, 1 to 3. With one the strip is the feature map.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape.

    Raises:
        SenetError: The kernel size is even or below 1, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Xu and Wan 2024 (arXiv 2403.01123), eqs. 4-7, in the variant "ELA-B".
    Differs: one and three dimensions and `init="identity"` are not in the paper. Public copies share one convolution
        and one norm between the axes; the equations have one of each for every axis. timm adds a SiLU before the
        sigmoid and normalizes in one group.

    Example:
        >>> import torch
        >>> from senet.nn import EfficientLocalAttention
        >>> ela = EfficientLocalAttention(32)
        >>> ela(torch.rand(2, 32, 8, 6)).shape
        torch.Size([2, 32, 8, 6])
    """

    def __init__(
        self, channels: int, *, kernel_size: int = 7, norm_groups: int = 16, init: str = "default", ndim: int = 2
    ) -> None:
        super().__init__(channels, ndim=ndim)
        check_odd("kernel_size", kernel_size)
        self.activate = gate_function("sigmoid", init)
        self.convs = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False)
            for _ in range(ndim)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(gcd(norm_groups, channels), channels) for _ in range(ndim))
        if init == "identity":
            for norm in self.norms:
                zero(norm)

    def axis_gates(self, x: Tensor) -> list[Tensor]:
        """Return the factors along each axis, [(N, C, H), (N, C, W)] for an image."""
        layers = zip(strips(x), self.convs, self.norms, strict=True)
        return [self.activate(norm(conv(strip))) for strip, conv, norm in layers]

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial): the product over the axes."""
        return product_along(self.axis_gates(x))
