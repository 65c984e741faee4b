"""Excite: the two-layer bottleneck that lets channels see each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.nn._table import look_up
from senet.nn.start import zero

__all__ = ["ROUNDINGS", "hidden_width"]


def excite(s: Tensor, fc1: nn.Linear, fc2: nn.Linear) -> Tensor:
    """Return `fc2(relu(fc1(s)))` along the channels, the gate's argument.

    Linear layers rather than 1x1 convolutions: the state dict is then the same for signals, images and
    volumes.

    Shape:
        (N, C) or (N, C, *spatial) -> the same.

    Source: Hu et al. 2018, eq. 3; on a map, Table 16 ("NoSqueeze", a pair of 1x1 convolutions).
    """
    if s.ndim == 2:
        return fc2(torch.relu(fc1(s)))
    return fc2(torch.relu(fc1(s.movedim(1, -1)))).movedim(-1, 1)


def bottleneck(channels: int, hidden: int, *, bias: bool = True) -> tuple[nn.Linear, nn.Linear]:
    """Return the two layers of the bottleneck, channels -> hidden -> channels."""
    return nn.Linear(channels, hidden, bias=bias), nn.Linear(hidden, channels, bias=bias)


def zero_bottleneck(fc1: nn.Linear, fc2: nn.Linear) -> None:
    """Let the bottleneck start at exactly zero and still learn.

    The biases of the first layer start at one, so that no hidden unit is dead and the gradient reaches `fc2`
    from the first step on (and `fc1` from the second).
    """
    zero(fc2)
    if fc1.bias is not None:
        nn.init.ones_(fc1.bias)


def hidden_width(channels: int, reduction: int = 16, rounding: str = "floor") -> int:
    """Return how many hidden units the bottleneck has.

    Args:
        channels: Channels of the map.
        reduction: The paper's reduction ratio r.
        rounding: "floor" (the paper's): the whole part of C/r. "timm": the multiple of 8 nearest to C/r, at
            least 8 and never below 90 % of it (`timm.layers.make_divisible`).

    Raises:
        SenetError: The reduction is below 1 or leaves no hidden unit.
        UnknownNameError: There is no such rounding.

    Source: Hu et al. 2018, section 3.2.
    Differs: "timm" is not in the paper. timm's own `SEModule` leaves the 90 % rule out; where that matters
        (C/r = 11 becomes 8 there and 16 here), give the hidden width itself.
    """
    round_width = look_up("rounding", rounding, ROUNDINGS)
    if reduction < 1:
        raise SenetError(f"reduction={reduction} is no reduction ratio; use 1..{channels}")
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
