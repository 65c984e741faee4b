"""Attention over parallel branches: each channel weighs the branches (selective kernels)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._dims import BATCH_NORM, CONV
from senet.nn.attention import Attention
from senet.nn.squeeze import mean

__all__ = ["BranchAttention", "SelectiveKernel"]


@final
class BranchAttention(nn.Module):
    """Average feature maps of equal shape, with weights per channel computed from all of them.

    Training needs more than one image in a batch, because the norm has one value per image and channel.

    Args:
        channels: Channels C of each feature map.
        branches: Number M of feature maps.
        reduction: Reduction ratio r. The bottleneck has max(C // r, min_hidden) hidden units.
        min_hidden: Smallest number of hidden units, L in the paper.

    Shape:
        M feature maps (N, C, *spatial) -> one (N, C, *spatial).

    Raises:
        SenetError: A number is below 1 (`branches`: below 2), or the input has another number of feature maps.

    Source: Li et al. 2019 (arXiv 1903.06586), section 3.1, eqs. 1-6 ("fuse" and "select").

    Example:
        >>> import torch
        >>> from senet.nn import BranchAttention
        >>> join = BranchAttention(16, branches=2)
        >>> branches = [torch.rand(4, 16, 8, 8), torch.rand(4, 16, 8, 8)]
        >>> join(branches).shape, join.gate(branches).shape
        (torch.Size([4, 16, 8, 8]), torch.Size([4, 2, 16, 1, 1]))
    """

    def __init__(self, channels: int, branches: int = 2, *, reduction: int = 16, min_hidden: int = 32) -> None:
        super().__init__()
        for name, value, least in (
            ("channels", channels, 1),
            ("branches", branches, 2),
            ("reduction", reduction, 1),
            ("min_hidden", min_hidden, 1),
        ):
            if value < least:
                raise SenetError(f"{name}={value} is out of range; use {least} or more")
        self.channels = channels
        self.branches = branches
        hidden = max(channels // reduction, min_hidden)
        self.fc = nn.Linear(channels, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.select = nn.Linear(hidden, branches * channels, bias=False)

    def gate(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Return the weights, (N, M, C, 1, ...). They sum to 1 over the branches."""
        if len(feature_maps) != self.branches:
            raise SenetError(f"BranchAttention expects {self.branches} feature maps, got {len(feature_maps)}")
        fused = reduce(torch.add, feature_maps)
        hidden = torch.relu(self.norm(self.fc(mean(fused))))
        weights = self.select(hidden).unflatten(1, (self.branches, self.channels)).softmax(1)
        # Autocast on CUDA computes a softmax in float32. The feature maps keep their own type.
        return weights.to(fused.dtype).reshape(weights.shape + (1,) * (fused.ndim - 2))

    def forward(self, feature_maps: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum of the feature maps, (N, C, *spatial)."""
        weights = self.gate(feature_maps)
        return reduce(torch.add, [part * weight for part, weight in zip(feature_maps, weights.unbind(1), strict=True)])

    def extra_repr(self) -> str:
        """Return the options that `print(layer)` shows."""
        return f"channels={self.channels}, branches={self.branches}"


@final
class SelectiveKernel(Attention):
    """Apply 3x3 convolutions of increasing dilation, and let each channel weigh them (SK).

    This layer computes new features. It overrides `forward`, and its gate weighs its branches instead of its
    input. It replaces a 3x3 convolution (placement "conv3x3") and costs as much as `branches` of them.

    Args:
        channels: Channels C of the feature map.
        branches: Number M of parallel convolutions. The m-th has dilation m, so it reaches m positions far.
        reduction: Reduction ratio r of the attention.
        min_hidden: Smallest number of hidden units of the attention, L in the paper.
        groups: Groups of each convolution. Must divide C.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, M, C, 1, ...) and sums to 1 over the branches.

    Raises:
        SenetError: A number is out of range, the groups don't divide the channels, or the input has the
            wrong rank or channels.

    Source: Li et al. 2019 (arXiv 1903.06586), section 3.1.
    Differs: the default is one group instead of 32, because many channel counts aren't a multiple of 32. There
        is no identity initialization, because the output consists of new features.

    Example:
        >>> import torch
        >>> from senet.nn import SelectiveKernel
        >>> sk, x = SelectiveKernel(16), torch.rand(4, 16, 8, 8)
        >>> sk(x).shape
        torch.Size([4, 16, 8, 8])
        >>> bool(torch.allclose(sk.gate(x).sum(1), torch.ones(())))
        True
    """

    def __init__(
        self,
        channels: int,
        branches: int = 2,
        *,
        reduction: int = 16,
        min_hidden: int = 32,
        groups: int = 1,
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        self.rescales = False
        if groups < 1 or channels % groups:
            raise SenetError(f"groups={groups} doesn't divide channels={channels}; use a divisor of {channels}")
        self.attend = BranchAttention(channels, branches, reduction=reduction, min_hidden=min_hidden)
        self.convs = nn.ModuleList(_branch(channels, m, groups, ndim) for m in range(1, branches + 1))

    def gate(self, x: Tensor) -> Tensor:
        """Return the weights of the branches, (N, M, C, 1, ...)."""
        return self.attend.gate([conv(x) for conv in self.convs])

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted sum of the branches, (N, C, *spatial)."""
        self.check_input(x)
        return self.attend([conv(x) for conv in self.convs])


def _branch(channels: int, dilation: int, groups: int, ndim: int) -> nn.Sequential:
    return nn.Sequential(
        CONV[ndim](channels, channels, 3, padding=dilation, dilation=dilation, groups=groups, bias=False),
        BATCH_NORM[ndim](channels),
        nn.ReLU(inplace=True),
    )
