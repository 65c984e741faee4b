"""Attention over channels and space together: scSE, CBAM and BAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor, nn

from senet.nn._dims import BATCH_NORM, CONV, over_space
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.block import SqueezeExcite
from senet.nn.channel import check_odd
from senet.nn.excite import bottleneck, excite, hidden_width, zero_bottleneck
from senet.nn.gate import GATES, Gate
from senet.nn.initialization import INITS, gate_function, zero
from senet.nn.spatial import SpatialSqueezeExcite
from senet.nn.squeeze import average, maximum, mean

__all__ = [
    "COMBINES",
    "BottleneckAttention",
    "ChannelSpatialSqueezeExcite",
    "Combine",
    "ConvolutionalBlockAttention",
]


@dataclass(frozen=True)
class Combine:
    """How scSE combines its two gates, `(x, channel, spatial)` -> gate.

    Attributes:
        plain: The function as published.
        centred: The form that is 1 where both gates are 1.
    """

    plain: Callable[[Tensor, Tensor, Tensor], Tensor]
    centred: Callable[[Tensor, Tensor, Tensor], Tensor]


def _sum(_x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    return channel + spatial


def _midpoint(_x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    return 0.5 * (channel + spatial)


def _largest_product(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    # max(x * a, x * b) is x * max(a, b) for positive x and x * min(a, b) for negative x.
    return torch.where(x < 0, torch.minimum(channel, spatial), torch.maximum(channel, spatial))


COMBINES: Final[Mapping[str, Combine]] = {
    "add": Combine(_sum, _midpoint),
    "max": Combine(_largest_product, _largest_product),
}


@final
class ChannelSpatialSqueezeExcite(Attention):
    """Rescale by channel and by position in parallel, and combine the two results (scSE).

    Args:
        channels: Channels C of the feature map.
        reduction: Reduction ratio of the channel gate.
        combine: "add" (the sum of the two rescaled feature maps) or "max" (the larger of them, element by element).
        init: "default", or "identity": the output first equals the input. With "add" the function stays as
            published (half plus half is one), and only the last layers start at zero. With "max" the two gates
            become 2 * sigmoid.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape.

    Raises:
        SenetError: The reduction leaves no hidden unit, or the input has the wrong rank or channels.
        UnknownNameError: There is no such combine or init.

    Source: Roy et al. 2018 (arXiv 1803.02579), section 2.3 (sum); Roy et al. 2019 (arXiv 1808.08127)
        for the max-out.
    Differs: `init="identity"` is not in the papers.

    Example:
        >>> import torch
        >>> from senet.nn import ChannelSpatialSqueezeExcite
        >>> scse = ChannelSpatialSqueezeExcite(16)
        >>> scse.gate(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(
        self, channels: int, reduction: int = 2, *, combine: str = "add", init: str = "default", ndim: int = 2
    ) -> None:
        super().__init__(channels, ndim=ndim)
        self.combine = look_up("init", init, INITS)(look_up("combine", combine, COMBINES))
        self.channel = SqueezeExcite(channels, reduction, init=init, ndim=ndim)
        self.spatial = SpatialSqueezeExcite(channels, init=init, ndim=ndim)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial)."""
        return self.combine(x, self.channel.gate(x), self.spatial.gate(x))


@final
class ConvolutionalBlockAttention(Attention):
    """Rescale by channel, then by position (CBAM).

    The channel gate applies one shared bottleneck to the spatial mean and maximum. The spatial gate uses the mean and
    maximum over the channels, after the channel gate.

    Args:
        channels: Channels C of the feature map.
        reduction: Reduction ratio of the bottleneck.
        kernel_size: Kernel size of the spatial convolution, odd.
        bias: Whether the bottleneck has biases (the authors' code) or not (the paper's eq. 2).
        init: "default", or "identity": the output first equals the input, with both gates 2 * sigmoid. Their
            product is in (0, 4).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate, the product of both, has the same shape.

    Raises:
        SenetError: The reduction leaves no hidden unit, the kernel size is even, or the input has the wrong
            rank or channels.
        UnknownNameError: There is no such init.

    Source: Woo et al. 2018 (arXiv 1807.06521), eqs. 1-3.
    Differs: the spatial convolution has a batch norm, as in the authors' code. `init="identity"` is not in
        the paper.

    Example:
        >>> import torch
        >>> from senet.nn import ConvolutionalBlockAttention
        >>> cbam, x = ConvolutionalBlockAttention(32), torch.rand(2, 32, 8, 8)
        >>> cbam(x).shape
        torch.Size([2, 32, 8, 8])
        >>> cbam.channel_gate(x).shape, cbam.spatial_gate(x).shape
        (torch.Size([2, 32, 1, 1]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        kernel_size: int = 7,
        bias: bool = False,
        init: str = "default",
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        check_odd("kernel_size", kernel_size)
        self.activate = gate_function("sigmoid", init)
        self.fc1, self.fc2 = bottleneck(channels, hidden_width(channels, reduction), bias=bias)
        self.conv = CONV[ndim](2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = BATCH_NORM[ndim](1)
        if init == "identity":
            zero_bottleneck(self.fc1, self.fc2)
            zero(self.norm)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial): the channel gate times the spatial gate."""
        channel = self.channel_gate(x)
        return channel * self.spatial_gate(x * channel)

    def channel_gate(self, x: Tensor) -> Tensor:
        """Return the factors by channel, (N, C, 1, ...)."""
        z = excite(mean(x), self.fc1, self.fc2) + excite(maximum(x), self.fc1, self.fc2)
        return over_space(self.activate(z), x)

    def spatial_gate(self, x: Tensor) -> Tensor:
        """Return the factors by position, (N, 1, *spatial). The input was already rescaled by the channel gate."""
        summary = torch.cat([average(x, (1,), keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.activate(self.norm(self.conv(summary)))


def _one_plus_sigmoid(z: Tensor) -> Tensor:
    return 1 + torch.sigmoid(z)


_BAM_GATE: Final = Gate(plain=_one_plus_sigmoid, centred=GATES["sigmoid"].centred)


def _dilated_convs(channels: int, hidden: int, dilation: int, ndim: int) -> nn.Sequential:
    conv, norm = CONV[ndim], BATCH_NORM[ndim]
    layers: list[nn.Module] = [conv(channels, hidden, 1, bias=False), norm(hidden), nn.ReLU(inplace=True)]
    for _ in range(2):
        layers += [
            conv(hidden, hidden, 3, padding=dilation, dilation=dilation, bias=False),
            norm(hidden),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, conv(hidden, 1, 1, bias=False), norm(1))


@final
class BottleneckAttention(Attention):
    """Rescale by channel and position together: `x + x * sigmoid(channel + spatial)` (BAM).

    Training needs more than one image in a batch, because one of the norms has one value per image and channel.

    Args:
        channels: Channels C of the feature map.
        reduction: Reduction ratio of both branches.
        dilation: Dilation of the two 3x3 convolutions of the spatial branch.
        init: "default", or "identity": the output first equals the input. The gate is then 2 * sigmoid, in
            (0, 2). The published gate, 1 + sigmoid in (1, 2), can't be 1.
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape.

    Raises:
        SenetError: The reduction leaves no hidden unit, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Park et al. 2018 (arXiv 1807.06514), eqs. 1-4.
    Differs: the inner convolutions have a batch norm and a ReLU each, as in the authors' code.
        `init="identity"` is not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import BottleneckAttention
        >>> bam = BottleneckAttention(32)
        >>> bam.gate(torch.rand(4, 32, 8, 8)).shape
        torch.Size([4, 32, 8, 8])
    """

    def __init__(
        self, channels: int, reduction: int = 16, *, dilation: int = 4, init: str = "default", ndim: int = 2
    ) -> None:
        super().__init__(channels, ndim=ndim)
        hidden = hidden_width(channels, reduction)
        self.activate = look_up("init", init, INITS)(_BAM_GATE)
        self.fc1, self.fc2 = bottleneck(channels, hidden)
        self.norm = nn.BatchNorm1d(channels)
        self.spatial = _dilated_convs(channels, hidden, dilation, ndim)
        if init == "identity":
            zero(self.norm)
            zero(self.spatial[-1])

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial)."""
        channel = self.norm(excite(mean(x), self.fc1, self.fc2))
        return self.activate(over_space(channel, x) + self.spatial(x))
