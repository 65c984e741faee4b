"""Triplet attention: a spatial gate for each pair of axes, channels included."""

from __future__ import annotations

from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from senet.nn._dims import BATCH_NORM, CONV
from senet.nn.attention import Attention
from senet.nn.channel import check_odd
from senet.nn.initialization import gate_function, zero
from senet.nn.squeeze import average

__all__ = ["TripletAttention"]


@final
class TripletAttention(Attention):
    """Average the results of three gates: over (H, W), (C, W) and (C, H) (triplet attention).

    Each gate summarizes the axis that it leaves out by maximum and mean. Its number of parameters doesn't depend on C.

    Args:
        channels: Channels C of the feature map.
        kernel_size: Kernel size of the convolutions, odd.
        init: "default", or "identity": the output first equals the input, with each gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3. There are ndim + 1 gates.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape.

    Raises:
        SenetError: The kernel size is even or below 1, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Misra et al. 2021 (arXiv 2010.03045), section 3.2, eqs. 1-4.
    Differs: the batch norm after each convolution is from the authors' code, with PyTorch's momentum of 0.1 instead of
        0.01. One and three dimensions and `init="identity"` are not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import TripletAttention
        >>> triplet = TripletAttention(32)
        >>> sum(p.numel() for p in triplet.parameters())
        300
        >>> [gate.shape[1:] for gate in triplet.axis_gates(torch.rand(2, 32, 8, 6))]
        [torch.Size([1, 8, 6]), torch.Size([32, 1, 6]), torch.Size([32, 8, 1])]
    """

    def __init__(self, channels: int, *, kernel_size: int = 7, init: str = "default", ndim: int = 2) -> None:
        super().__init__(channels, ndim=ndim)
        check_odd("kernel_size", kernel_size)
        self.activate = gate_function("sigmoid", init)
        self.convs = nn.ModuleList(
            CONV[ndim](2, 1, kernel_size, padding=kernel_size // 2, bias=False) for _ in range(ndim + 1)
        )
        self.norms = nn.ModuleList(BATCH_NORM[ndim](1) for _ in range(ndim + 1))
        if init == "identity":
            for norm in self.norms:
                zero(norm)

    def axis_gates(self, x: Tensor) -> list[Tensor]:
        """Return one gate for each axis left out, which then has size 1: [(N, 1, H, W), (N, C, 1, W), (N, C, H, 1)]."""
        axes = range(1, x.ndim)
        layers = zip(axes, self.convs, self.norms, strict=True)
        return [self.activate(norm(conv(_summary(x, axis)))).squeeze(1).unsqueeze(axis) for axis, conv, norm in layers]

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial): the mean of the gates."""
        return reduce(torch.add, self.axis_gates(x)) / (self.ndim + 1)


def _summary(x: Tensor, axis: int) -> Tensor:
    """Return maximum and mean along an axis, as two channels."""
    return torch.stack([x.amax(axis), average(x, (axis,))], 1)
