"""The excitation: a bottleneck of two linear layers across the channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._table import look_up
from senet.nn.initialization import zero

__all__ = ["ROUNDINGS", "hidden_width"]


def excite(s: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """Return `fc2(relu(fc1(s)))` along the channels, the logits of the gate.

    Linear layers instead of 1x1 convolutions make the state dict the same for signals, images and volumes.

    Shape:
        (N, C) or (N, C, *spatial) -> the same.

    Source: Hu et al. 2018, eq. 3. Without a squeeze, Table 16 ("NoSqueeze", a pair of 1x1 convolutions).
    """
    if s.ndim == 2:
        return fc2(torch.relu(fc1(s)))
    return fc2(torch.relu(fc1(s.movedim(1, -1)))).movedim(-1, 1)


def bottleneck(channels: int, hidden: int, *, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """Return the two layers of the bottleneck, channels -> hidden -> channels."""
    return nn.Linear(channels, hidden, bias=bias), nn.Linear(hidden, channels, bias=bias)


def zero_bottleneck(fc1: nn.Linear, fc2: nn.Linear) -> None:
    """Initialize the bottleneck to output exactly zero and still learn.

    The biases of the first layer are set to 1, so that no hidden unit is dead. The gradient then reaches `fc2` in
    the first step and `fc1` in the second.
    """
    zero(fc2)
    if fc1.bias is not None:
        nn.init.ones_(fc1.bias)


def hidden_width(channels: int, reduction: int = 16, rounding: str = "floor") -> int:
    """Return the number of hidden units of the bottleneck.

    Args:
        channels: Channels C of the feature map.
        reduction: The paper's reduction ratio r.
        rounding: "floor" (the paper's) rounds C/r down. "timm" takes the multiple of 8 nearest to C/r, at
            least 8 and never below 90 % of it (`timm.layers.make_divisible`).

    Raises:
        SenetError: The reduction is below 1 or leaves no hidden unit.
        UnknownNameError: There is no such rounding.

    Source: Hu et al. 2018, section 3.2.
    Differs: "timm" is not in the paper. timm's own `SEModule` leaves out the 90 % rule (C/r = 11 becomes 8 there
        and 16 here). Where this matters, give `hidden_channels`.

    Example:
        >>> from senet.nn import hidden_width
        >>> hidden_width(256), hidden_width(72, 4), hidden_width(72, 4, "timm")
        (16, 18, 24)
    """
    round_width = look_up("rounding", rounding, ROUNDINGS)
    if reduction < 1:
        raise SenetError(f"reduction={reduction} is out of range; use 1..{channels}")
    hidden = round_width(channels, reduction)
    if hidden < 1:
        raise SenetError(f"reduction={reduction} leaves no hidden unit for channels={channels}; use 1..{channels}")
    return hidden


def _floor(channels: int, reduction: int) -> int:
    return channels // reduction


def _nearest_8(channels: int, reduction: int) -> int:
    wanted = channels / reduction
    width = max(8, int(wanted + 4) // 8 * 8)
    return width + 8 if width < 0.9 * wanted else width


ROUNDINGS: Final[Mapping[str, Callable[[int, int], int]]] = {"floor": _floor, "timm": _nearest_8}
