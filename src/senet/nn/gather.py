"""Gather-Excite: a gate that also varies over space, at a lower resolution than the feature map."""

from __future__ import annotations

from typing import Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._dims import BATCH_NORM, CONV
from senet.nn.attention import Attention
from senet.nn.excite import bottleneck, excite, hidden_width, zero_bottleneck
from senet.nn.initialization import gate_function, zero
from senet.nn.squeeze import average

__all__ = ["EXTENTS", "GatherExcite"]

# 0 is the whole feature map. The others are powers of two, because the learned gather halves the size repeatedly.
EXTENTS: Final = (0, 2, 4, 8)


@final
class GatherExcite(Attention):
    """Rescale using the surroundings: gather over an extent, excite, and interpolate to the size of the input.

    | paper | learned_gather | reduction |
    |---|---|---|
    | GE-theta-minus | False | None |
    | GE-theta | True | None |
    | GE-theta-plus | True | 16 |
    | (extent 0) Squeeze-and-Excitation | False | 16 |

    Args:
        channels: Channels C of the feature map.
        extent: Positions summarized by one factor, along each dimension: 2, 4, 8, or 0 for the whole feature map.
            A feature map may be smaller than the extent. An export with a dynamic size needs a minimum size above
            the extent, because PyTorch treats dimensions of size one as a special case.
        learned_gather: Gather with depthwise 3x3 convolutions of stride 2 (each with a batch norm, ReLU
            between them), or with an average without parameters.
        reduction: Reduction ratio of the bottleneck after the gather. None means no bottleneck.
        init: "default", or "identity": the output first equals the input, with the gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate has the same shape, or (N, C, 1, ...) for `extent=0`.

    Raises:
        SenetError: There is no such extent; `extent=0` comes with a learned gather; the reduction leaves no hidden
            unit; `init="identity"` comes without parameters; or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Hu et al. 2018 (Gather-Excite, arXiv 1810.12348), its parameter-free and
        parameterised pairings.
    Differs: the paper's learned gather over the whole feature map is one convolution of the feature map's size.
        It is left out, because the network would then take a single image size. The default extent is the
        paper's largest other one. `init="identity"` is not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import GatherExcite
        >>> ge = GatherExcite(32, extent=4)
        >>> ge(torch.rand(2, 32, 16, 16)).shape
        torch.Size([2, 32, 16, 16])
    """

    def __init__(
        self,
        channels: int,
        *,
        extent: int = 8,
        learned_gather: bool = True,
        reduction: int | None = 16,
        init: str = "default",
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        _check_options(extent, learned_gather, reduction, init)
        self.extent = extent
        self.activate = gate_function("sigmoid", init)
        self.gather = (_strided_convs if learned_gather else _AverageGather)(channels, extent, ndim)
        self.has_bottleneck = reduction is not None
        if reduction is not None:
            self.fc1, self.fc2 = bottleneck(channels, hidden_width(channels, reduction))
        if init == "identity":
            self._initialize_to_identity()

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, *spatial), or (N, C, 1, ...) for `extent=0`."""
        context = self.gather(x)
        if self.has_bottleneck:
            context = excite(context, self.fc1, self.fc2)
        factors = self.activate(context)
        if self.extent == 0:
            return factors
        # The gate is applied before the interpolation: same values, fewer operations.
        return F.interpolate(factors, size=x.shape[2:], mode="nearest")

    def _initialize_to_identity(self) -> None:
        if self.has_bottleneck:
            zero_bottleneck(self.fc1, self.fc2)
        else:
            assert isinstance(self.gather, nn.Sequential)  # ensured by `_check_options`
            zero(self.gather[-1])


def _average_1d(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    return F.avg_pool1d(x, size, stride, padding, count_include_pad=False)


def _average_2d(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    return F.avg_pool2d(x, size, stride, padding, count_include_pad=False)


def _average_3d(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    # `avg_pool3d` rejects inputs smaller than the window, and its backward pass on CUDA is not deterministic. The mean
    # over a box equals the mean over its depth of the means over its slices.
    sliced = _average_2d(x.flatten(1, 2), size, stride, padding).unflatten(1, x.shape[1:3])
    deep = F.avg_pool2d(sliced.flatten(3), (size, 1), (stride, 1), (padding, 0), count_include_pad=False)
    return deep.unflatten(3, sliced.shape[3:])


LOCAL_AVERAGES: Final = {1: _average_1d, 2: _average_2d, 3: _average_3d}


class _AverageGather(nn.Module):
    """Average over the extent around every `extent`-th position, or globally for extent 0."""

    def __init__(self, _channels: int, extent: int, ndim: int) -> None:
        super().__init__()
        self.extent = extent
        self.average = LOCAL_AVERAGES[ndim]

    def forward(self, x: Tensor) -> Tensor:
        if self.extent == 0:
            return average(x, tuple(range(2, x.ndim)), keepdim=True)
        # Neighboring windows overlap. Positions outside the feature map don't count.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.average(wide, 2 * self.extent - 1, self.extent, self.extent - 1).to(x.dtype)


def _strided_convs(channels: int, extent: int, ndim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    while extent > 1:
        layers += [
            CONV[ndim](channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
            BATCH_NORM[ndim](channels),
            nn.ReLU(inplace=True),
        ]
        extent //= 2
    return nn.Sequential(*layers[:-1])  # the gate follows the last norm


def _check_options(extent: int, learned_gather: bool, reduction: int | None, init: str) -> None:
    if extent not in EXTENTS:
        raise SenetError(f"extent={extent} is not supported; use one of {', '.join(map(str, EXTENTS))}")
    if extent == 0 and learned_gather:
        raise SenetError("extent=0 can't have a learned gather; use extent=8 or learned_gather=False")
    if init == "identity" and reduction is None and not learned_gather:
        raise SenetError("init='identity' needs parameters; use learned_gather=True or a reduction")
