"""The Squeeze-and-Excitation block."""

from __future__ import annotations

from typing import final

from torch import Tensor

from senet.errors import SenetError
from senet.nn._dims import over_space
from senet.nn._table import look_up
from senet.nn.attention import Attention
from senet.nn.excite import bottleneck, excite, hidden_width, zero_bottleneck
from senet.nn.squeeze import SQUEEZES
from senet.nn.start import gate_function

__all__ = ["SqueezeExcite"]


@final
class SqueezeExcite(Attention):
    """Rescale each channel by what all channels show on average: `x * gate(excite(squeeze(x)))`.

    Args:
        channels: Channels C of the map.
        reduction: Reduction ratio r; the bottleneck has C // r hidden units.
        hidden_channels: Hidden blocks themselves. If given, it wins over `reduction` and `rounding`.
        rounding: How C / r becomes whole: a name in `ROUNDINGS`, see `hidden_width`.
        squeeze: A name in `SQUEEZES`: "mean", "max", "mean+max" or "none".
        gate: A name in `GATES`: "sigmoid", "hard-sigmoid", "tanh" or "relu".
        bias: Whether the two linear layers have biases. The released networks have them, the paper's
            ablations don't.
        init: "default" (PyTorch's for linear layers), or "identity": the output equals the input bit for bit
            until the first training step. That takes the centred form of the gate, which has **another
            range**: 2 * sigmoid, in (0, 2), in place of the sigmoid, in (0, 1).
        ndim: Spatial dimensions, 1 to 3. Parameters don't depend on it.

    Shape:
        (N, C, *spatial) -> the same. The gate is (N, C, 1, ...), or the full map for `squeeze="none"`.

    Raises:
        SenetError: The bottleneck would have no hidden unit, or the input has the wrong rank or channels.
        UnknownNameError: There is no such rounding, squeeze, gate or init.

    Source: Hu et al. 2018 (arXiv 1709.01507), eqs. 2-4; Tables 10-12 and 16 for the options.
    Differs: "hard-sigmoid", "mean+max", `rounding="timm"` and `init="identity"` are not in the paper.
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
            raise SenetError(f"hidden_channels={hidden_channels} is no hidden width; use 1 or more")
        self.squeeze = look_up("squeeze", squeeze, SQUEEZES)
        self.activate = gate_function(gate, init)
        self.fc1, self.fc2 = bottleneck(channels, hidden_channels, bias=bias)
        if init == "identity":
            zero_bottleneck(self.fc1, self.fc2)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factors, (N, C, 1, ...), or (N, C, *spatial) without a squeeze."""
        return over_space(self.activate(excite(self.squeeze(x), self.fc1, self.fc2)), x)
