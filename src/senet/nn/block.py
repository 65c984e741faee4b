"""The Squeeze-and-Excitation block."""

from __future__ import annotations

from typing import final

from torch import Tensor

from senet.errors import SenetError
from senet.nn._dims import over_space
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.excite import bottleneck, excite, hidden_width, zero_bottleneck
from senet.nn.initialization import gate_function
from senet.nn.squeeze import SQUEEZES

__all__ = ["SqueezeExcite"]


@final
class SqueezeExcite(Attention):
    """Rescale each channel using the spatial means of all channels: `x * gate(excite(squeeze(x)))`.

    With default options it equals the row "se" of `COMPOSITIONS` in `ChannelAttention`. The fused operators support
    this class.

    Args:
        channels: Channels C of the feature map.
        reduction: Reduction ratio r. The bottleneck has C // r hidden units.
        hidden_channels: Number of hidden units. If given, it overrides `reduction` and `rounding`.
        rounding: How C / r is rounded: a name in `ROUNDINGS`, see `hidden_width`.
        squeeze: A name in `SQUEEZES`: "mean", "max", "mean+max", "std", "rms" or "none".
        gate: A name in `GATES`: "sigmoid", "hard-sigmoid", "tanh", "relu", "1+tanh" or "softmax".
        bias: Whether the two linear layers have biases. The released networks have them, the paper's
            ablations don't.
        init: "default" (PyTorch's for linear layers), or "identity". With "identity" the output equals the input
            bit for bit until the first training step. It uses the centred form of the gate, with **another
            range**: 2 * sigmoid in (0, 2) instead of the sigmoid in (0, 1).
        ndim: Spatial dimensions, 1 to 3. Parameters don't depend on it.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, C, 1, ...), or (N, C, *spatial) for `squeeze="none"`.

    Raises:
        SenetError: The bottleneck would have no hidden unit, or the input has the wrong rank or channels.
        UnknownNameError: There is no such rounding, squeeze, gate or init.

    Source: Hu et al. 2018 (arXiv 1709.01507), eqs. 2-4; Tables 10-12 and 16 for the options.
    Differs: "hard-sigmoid", "1+tanh", "softmax", "mean+max", "std", "rms", `rounding="timm"` and `init="identity"` are
        not in the paper.

    Example:
        >>> import torch, senet
        >>> se = senet.SqueezeExcite(64, reduction=16)
        >>> x = torch.rand(2, 64, 8, 8)
        >>> se(x).shape, se.gate(x).shape
        (torch.Size([2, 64, 8, 8]), torch.Size([2, 64, 1, 1]))
        >>> torch.equal(senet.SqueezeExcite(64, init="identity")(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        hidden_channels: int | None = None,
        rounding: str = "floor",
        squeeze: str = "mean",
        gate: str = "sigmoid",
        bias: bool = True,
        init: str = "default",
        ndim: int = 2,
    ) -> None:
        super().__init__(channels, ndim=ndim)
        if hidden_channels is None:
            hidden_channels = hidden_width(channels, reduction, rounding)
        elif hidden_channels < 1:
            raise SenetError(f"hidden_channels={hidden_channels} is out of range; use 1 or more")
        self.squeeze = look_up("squeeze", squeeze, SQUEEZES)
        self.activate = gate_function(gate, init)
        self.fc1, self.fc2 = bottleneck(channels, hidden_channels, bias=bias)
        if init == "identity":
            zero_bottleneck(self.fc1, self.fc2)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, 1, ...), or (N, C, *spatial) without a squeeze."""
        return over_space(self.activate(excite(self.squeeze(x), self.fc1, self.fc2)), x)
