"""Spatial group-wise enhancement: a spatial gate for each group of channels."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from senet.nn._dims import over_space
from senet.nn._groups import check_groups, merge_groups, split_groups
from senet.nn.attention import Attention
from senet.nn.initialization import gate_function
from senet.nn.squeeze import TINY, wide

__all__ = ["GroupwiseEnhance"]


@final
class GroupwiseEnhance(Attention):
    """Rescale each position of a group of channels by its similarity to the group's mean (SGE).

    Args:
        channels: Channels C of the feature map.
        groups: Groups G of channels. Must divide C. There are 2 G parameters.
        init: "default", or "identity": the output first equals the input, with the gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape and is equal within each group.

    Raises:
        SenetError: The groups don't divide the channels, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Li et al. 2019 (arXiv 1905.09646), eqs. 1-5.
    Differs: the default is 8 groups instead of 64, because many feature maps have less than 64 channels. The standard
        deviation is over all positions, as in eq. 3. The authors' code has Bessel's correction, which a 1x1 feature map
        doesn't allow. The weights start at 0 and the biases at 1, as in the authors' code. `init="identity"` is not in
        the paper.

    Example:
        >>> import torch
        >>> from senet.nn import GroupwiseEnhance
        >>> sge = GroupwiseEnhance(32)
        >>> sum(p.numel() for p in sge.parameters())
        16
        >>> sge(torch.rand(2, 32, 8, 6)).shape
        torch.Size([2, 32, 8, 6])
    """

    def __init__(self, channels: int, *, groups: int = 8, init: str = "default", ndim: int = 2) -> None:
        super().__init__(channels, ndim=ndim)
        check_groups(channels, groups)
        self.groups = groups
        self.activate = gate_function("sigmoid", init)
        self.weight = nn.Parameter(torch.zeros(groups))
        self.bias = nn.Parameter(torch.zeros(groups) if init == "identity" else torch.ones(groups))

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial)."""
        space = tuple(range(2, x.ndim))
        parts = split_groups(x, self.groups)
        values = wide(parts)
        similarity = (values * values.mean(space, keepdim=True)).sum(1).unflatten(0, (x.shape[0], self.groups))
        centred = similarity - similarity.mean(space, keepdim=True)
        normed = centred / ((centred.square().mean(space, keepdim=True) + TINY).sqrt() + 1e-5)
        weight, bias = (over_space(p[None], x) for p in (self.weight, self.bias))
        factors = self.activate(weight * normed + bias).to(x.dtype)
        return merge_groups(factors.flatten(0, 1)[:, None].expand_as(parts), self.groups)
