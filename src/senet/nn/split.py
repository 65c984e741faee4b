"""Split attention: radix branches of one grouped convolution, weighed by channel (ResNeSt)."""

from __future__ import annotations

from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._dims import BATCH_NORM, CONV
from senet.nn._groups import check_groups
from senet.nn.attention import Attention
from senet.nn.squeeze import mean

__all__ = ["SplitAttention"]


@final
class SplitAttention(Attention):
    """Compute several feature maps in one grouped convolution, and let each channel weigh them (ResNeSt).

    This layer computes new features. It overrides `forward`, and its gate weighs its branches instead of its
    input. It replaces a 3x3 convolution (placement "conv3x3"). Training needs more than one image in a batch.

    Args:
        channels: Channels C of the feature map.
        radix: Number R of branches.
        groups: Cardinality K, the groups of each branch. R * K must divide C.
        reduction: Reduction ratio r of the attention, which has max(R * C // r, min_hidden) hidden units.
        min_hidden: Smallest number of hidden units.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, R, C, 1, ...) and sums to 1 over the branches.

    Raises:
        SenetError: A number is out of range, radix times groups doesn't divide the channels, the groups don't divide
            the hidden units, or the input has the wrong rank or channels.

    Source: Zhang et al. 2020 (arXiv 2004.08955), section 3.1, eqs. 1-2, and appendix A.1 (radix-major).
    Differs: the minimum of 32 hidden units is from the authors' code. There is no identity initialization, because the
        output consists of new features.

    Example:
        >>> import torch
        >>> from senet.nn import SplitAttention
        >>> split, x = SplitAttention(16), torch.rand(4, 16, 8, 8)
        >>> split(x).shape, split.gate(x).shape
        (torch.Size([4, 16, 8, 8]), torch.Size([4, 2, 16, 1, 1]))
    """

    def __init__(
        self,
        channels: int,
        radix: int = 2,
        *,
        groups: int = 1,
        reduction: int = 4,
        min_hidden: int = 32,
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        for name, value, least in (("radix", radix, 2), ("reduction", reduction, 1), ("min_hidden", min_hidden, 1)):
            if value < least:
                raise SenetError(f"{name}={value} is out of range; use {least} or more")
        check_groups(channels, groups, radix)
        hidden = max(radix * channels // reduction, min_hidden)
        if hidden % groups:
            raise SenetError(f"groups={groups} doesn't divide the hidden units {hidden}; use another min_hidden")
        self.rescales = False
        self.radix, self.groups = radix, groups
        self.conv = CONV[ndim](channels, radix * channels, 3, padding=1, groups=radix * groups, bias=False)
        self.norm = BATCH_NORM[ndim](radix * channels)
        self.fc1 = nn.Conv1d(channels, hidden, 1, groups=groups)
        self.norm1 = nn.BatchNorm1d(hidden)
        self.fc2 = nn.Conv1d(hidden, radix * channels, 1, groups=groups)

    def gate(self, x: Tensor) -> Tensor:
        """Return the weights of the branches, (N, R, C, 1, ...)."""
        return self._weights(self._branches(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sum of the branches, (N, C, *spatial)."""
        self.check_input(x)
        branches = self._branches(x)
        parts, weights = branches.unbind(1), self._weights(branches).unbind(1)
        return reduce(torch.add, [part * weight for part, weight in zip(parts, weights, strict=True)])

    def _branches(self, x: Tensor) -> Tensor:
        """(N, R, C, *spatial)."""
        return torch.relu(self.norm(self.conv(x))).unflatten(1, (self.radix, self.channels))

    def _weights(self, branches: Tensor) -> Tensor:
        s = mean(branches.sum(1))[:, :, None]
        z = self.fc2(torch.relu(self.norm1(self.fc1(s)))).squeeze(2)
        # Within a group, the weights of its channels for the first branch come first.
        z = (
            z.unflatten(1, (self.groups, self.radix, self.channels // self.groups))
            .softmax(2)
            .transpose(1, 2)
            .flatten(2)
        )
        return z.to(branches.dtype).reshape(z.shape + (1,) * self.ndim)
