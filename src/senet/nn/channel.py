"""Channel attention without a two-layer bottleneck: ECA and effective SE."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._dims import over_space
from senet.nn.attention import Attention
from senet.nn.initialization import gate_function, zero
from senet.nn.squeeze import mean

__all__ = ["EffectiveSqueezeExcite", "EfficientChannelAttention", "adaptive_kernel_size"]


def adaptive_kernel_size(channels: int, gamma: float = 2, beta: float = 1) -> int:
    """Return ECA's kernel size for a number of channels: |(log2 C + beta) / gamma|, made odd.

    The quotient is rounded down, and an even one is increased by 1, as in the authors' code.

    Source: Wang et al. 2020, section 3.2.
    """
    size = int(abs((math.log2(channels) + beta) / gamma))
    return size if size % 2 else size + 1


@final
class EfficientChannelAttention(Attention):
    """Rescale each channel using the spatial means of its neighbors in channel order (ECA).

    It equals the row "eca" of `COMPOSITIONS` in `ChannelAttention`.

    Args:
        channels: Channels C of the feature map.
        kernel_size: Number of neighboring channels, odd. The default grows with C (`adaptive_kernel_size`).
        init: "default", or "identity": the output first equals the input, with the gate 2 * sigmoid in (0, 2).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, C, 1, ...).

    Raises:
        SenetError: The kernel size is even or below 1, or the input has the wrong rank or channels.
        UnknownNameError: There is no such init.

    Source: Wang et al. 2020 (arXiv 1910.03151), section 3.2.
    Differs: `init="identity"` is not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import EfficientChannelAttention
        >>> eca = EfficientChannelAttention(64)
        >>> sum(p.numel() for p in eca.parameters())
        3
        >>> eca.gate(torch.rand(2, 64, 8, 8)).shape
        torch.Size([2, 64, 1, 1])
    """

    def __init__(self, channels: int, *, kernel_size: int | None = None, init: str = "default", ndim: int = 2) -> None:
        super().__init__(channels, ndim=ndim)
        size = adaptive_kernel_size(channels) if kernel_size is None else kernel_size
        check_odd("kernel_size", size)
        self.activate = gate_function("sigmoid", init)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        if init == "identity":
            zero(self.conv)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, 1, ...)."""
        return over_space(self.activate(self.conv(mean(x).unsqueeze(1)).squeeze(1)), x)


@final
class EffectiveSqueezeExcite(Attention):
    """Rescale channels through one linear layer from C to C channels, without a bottleneck (eSE).

    It equals the row "ese" of `COMPOSITIONS` in `ChannelAttention`.

    Args:
        channels: Channels C of the feature map. The layer has C * C + C parameters.
        gate: A name in `GATES`.
        init: "default", or "identity": the output first equals the input, with the centred form of the gate (for
            the hard sigmoid in [0, 2]).
        ndim: Spatial dimensions, 1 to 3.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, C, 1, ...).

    Raises:
        SenetError: The input has the wrong rank or channels.
        UnknownNameError: There is no such gate or init.

    Source: Lee and Park 2020 (CenterMask, arXiv 1911.06667), "VoVNetV2". The hard sigmoid is from the authors'
        code.
    Differs: `init="identity"` is not in the paper.

    Example:
        >>> import torch
        >>> from senet.nn import EffectiveSqueezeExcite
        >>> ese = EffectiveSqueezeExcite(16)
        >>> sum(p.numel() for p in ese.parameters())
        272
        >>> ese(torch.rand(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])
    """

    def __init__(self, channels: int, *, gate: str = "hard-sigmoid", init: str = "default", ndim: int = 2) -> None:
        super().__init__(channels, ndim=ndim)
        self.activate = gate_function(gate, init)
        self.fc = nn.Linear(channels, channels)
        if init == "identity":
            zero(self.fc)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, 1, ...)."""
        return over_space(self.activate(self.fc(mean(x))), x)


def check_odd(name: str, size: int) -> None:
    """Raise a `SenetError` unless `size` is odd and positive."""
    if size < 1 or size % 2 == 0:
        raise SenetError(f"{name}={size} must be odd and positive, such as {max(size, 0) + 1}")
