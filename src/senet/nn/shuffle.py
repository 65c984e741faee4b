"""Shuffle attention: half of each group of channels has a channel gate, the other half a spatial gate."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._dims import over_space
from senet.nn._groups import check_groups, merge_groups, split_groups
from senet.nn.attention import Attention
from senet.nn.initialization import gate_function
from senet.nn.squeeze import mean

__all__ = ["ShuffleAttention"]


@final
class ShuffleAttention(Attention):
    """Rescale half of each group's channels by channel and half by position, then shuffle the channels (SA-Net).

    Args:
        channels: Channels C of the feature map.
        groups: Groups G of channels, which share all weights. C must be a multiple of 2 G.
        shuffle: Whether the channels are shuffled after the rescaling, in two groups.
        init: "default", or "identity" without the shuffle: the output first equals the input, with the gates
            2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape, in the order before the shuffle.

    Raises:
        SenetError: The channels aren't a multiple of 2 G, `init="identity"` comes with the shuffle, or the input has
            the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Zhang and Yang 2021 (SA-Net, arXiv 2102.00240), section 3, eqs. 1-4.
    Differs: the default is 8 groups instead of 64, because many feature maps have less than 128 channels. One and three
        dimensions, `shuffle=False` and `init="identity"` are not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import ShuffleAttention
        >>> ShuffleAttention(32)(torch.rand(2, 32, 8, 6)).shape
        torch.Size([2, 32, 8, 6])
        >>> ShuffleAttention(32, init="identity")
        Traceback (most recent call last):
        ...
        senet.errors.SenetError: a shuffle reorders the channels, so it can't start as the identity; use shuffle=False
    """

    def __init__(
        self, channels: int, *, groups: int = 8, shuffle: bool = True, init: str = "default", ndim: int = 2
    ) -> None:
        super().__init__(channels, ndim=ndim)
        check_groups(channels, groups, 2)
        self.groups = groups
        self.shuffles = shuffle
        self.rescales = not shuffle
        self.activate = gate_function("sigmoid", init)
        half = channels // (2 * groups)
        self.channel_weight, self.spatial_weight = (nn.Parameter(torch.zeros(half)) for _ in range(2))
        self.channel_bias, self.spatial_bias = (nn.Parameter(torch.ones(half)) for _ in range(2))
        self.norm = nn.GroupNorm(half, half)
        if init == "identity":
            if shuffle:
                raise SenetError(
                    "a shuffle reorders the channels, so it can't start as the identity; use shuffle=False"
                )
            nn.init.zeros_(self.channel_bias)
            nn.init.zeros_(self.spatial_bias)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial), of the channels in their order before the shuffle."""
        first, second = split_groups(x, self.groups).chunk(2, 1)
        by_channel = over_space(self.activate(self.channel_weight * mean(first) + self.channel_bias), x)
        weight, bias = (over_space(p[None], x) for p in (self.spatial_weight, self.spatial_bias))
        by_position = self.activate(weight * self.norm(second) + bias)
        return merge_groups(torch.cat([by_channel.expand_as(first), by_position], 1), self.groups).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x * gate(x)` with its channels shuffled, (N, C, *spatial)."""
        scaled = super().forward(x)
        if not self.shuffles:
            return scaled
        shuffled = scaled.unflatten(1, (2, self.channels // 2)).transpose(1, 2).flatten(1, 2)
        return torch.empty_like(scaled).copy_(shuffled)  # keeps the memory format
