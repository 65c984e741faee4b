"""Efficient multi-scale attention: two branches of different reach weigh each other's positions."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from senet.nn._dims import CONV
from senet.nn._groups import check_groups, merge_groups, split_groups
from senet.nn._strips import product_along, strips
from senet.nn.attention import Attention
from senet.nn.initialization import gate_function, zero
from senet.nn.squeeze import mean

__all__ = ["MultiScaleAttention"]


@final
class MultiScaleAttention(Attention):
    """Rescale each position of each group of channels, by a branch of strips and a branch of 3x3 convolutions (EMA).

    Args:
        channels: Channels C of the feature map.
        groups: Groups G of channels, which share all weights. Must divide C.
        init: "default", or "identity": the output first equals the input, with the gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape and is equal within each group.

    Raises:
        SenetError: The groups don't divide the channels, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Ouyang et al. 2023 (arXiv 2305.13563), section 3.2 and Fig. 3.
    Differs: the default of 8 groups is that of the authors' code; the paper's text has 32. One and three dimensions and
        `init="identity"` are not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import MultiScaleAttention
        >>> ema = MultiScaleAttention(32)
        >>> ema(torch.rand(2, 32, 8, 6)).shape
        torch.Size([2, 32, 8, 6])
    """

    def __init__(self, channels: int, *, groups: int = 8, init: str = "default", ndim: int = 2) -> None:
        super().__init__(channels, ndim=ndim)
        check_groups(channels, groups)
        width = channels // groups
        self.groups = groups
        self.activate = gate_function("sigmoid", init)
        self.mix = nn.Conv1d(width, width, 1)
        self.norm = nn.GroupNorm(width, width)
        self.conv = CONV[ndim](width, width, 3, padding=1)
        if init == "identity":
            zero(self.norm)
            zero(self.conv)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial)."""
        parts = split_groups(x, self.groups)
        fine, coarse = self.norm(parts * self._strip_gate(parts)), self.conv(parts)
        factors = self.activate(_weighed_by(fine, coarse) + _weighed_by(coarse, fine))
        return merge_groups(factors.expand_as(parts), self.groups)

    def _strip_gate(self, parts: Tensor) -> Tensor:
        pooled = strips(parts)
        mixed = torch.sigmoid(self.mix(torch.cat(pooled, 2)))
        return product_along(mixed.split([strip.shape[2] for strip in pooled], 2))


def _weighed_by(weighing: Tensor, weighed: Tensor) -> Tensor:
    """Average the channels of `weighed` by the softmax of the means of `weighing`: (N, c, *spatial) -> (N, 1, ...)."""
    weights = mean(weighing).softmax(1).to(weighed.dtype)
    return (weights[:, None] @ weighed.flatten(2)).unflatten(2, weighed.shape[2:])
