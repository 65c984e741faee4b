"""A unit: a part of a network that attention can sit in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from senet.graph.flow import reach
from senet.graph.values import Call, Value

__all__ = ["CARRIES", "SKIP", "Unit", "no_map", "unit_ending"]

CARRIES: Final = "carries attention already"
"""The reason of a unit that has what it needs."""

SKIP: Final = "is a skip over units of their own"
"""The reason of a long skip connection."""


@dataclass(eq=False, repr=False)
class Unit:
    """A part of a network that attention can sit in.

    Attributes:
        kind: "residual unit", "concatenation", "concatenated branch", "dense layer", "aggregation" (of all maps so
            far, and a convolution), "separable block", "unit without shortcut", "plain convolution", or "module"
            (the user's choice).
        call: The smallest module call that holds it.
        end: The map that attention rescales in the standard placement: the branch before the sum, the concatenation,
            the dense layer's new channels, the activated convolution. A branch that ends with channels last: its last
            convolution's map.
        members: The values computed in it, as far as they lead to `end`.
        merge: The sum of a residual unit.
        shortcut: The other operand of that sum.
        fork: The map from which branch and shortcut part.
        aside: The values of the shortcut's own.
        reason: Why it gets no attention; empty if it may.
    """

    kind: str
    call: Call
    end: Value
    members: frozenset[Value]
    merge: Value | None = None
    shortcut: Value | None = None
    fork: Value | None = None
    aside: frozenset[Value] = frozenset()
    reason: str = ""


def unit_ending(kind: str, call: Call, end: Value) -> Unit | None:
    """A unit of which all that leads to `end` within `call` is part; None if `end` is no map."""
    unit = Unit(kind, call, end, frozenset(v for v in reach([end], call) if v.call.within(call)))
    return None if no_map(unit) else unit


def no_map(unit: Unit) -> str:
    """Why the unit's end can't be rescaled channel by channel; empty if it can."""
    rank = len(unit.end.shape) - 2
    if not any(v.conv_rank for v in unit.members):
        return "has no convolution" if rank > 1 else "works on tokens, without a convolution"
    if rank not in (1, 2, 3) or not any(v.conv_rank == rank for v in unit.members):
        return f"ends in a tensor of shape {unit.end.shape}, which is no map (N, C, space)"
    if unit.end.channel_dim == 1 and unit.end.channels == 1:
        return "ends in a map of one channel"
    if unit.end.channel_dim != 1:
        return f"ends in a map whose channels come last: {unit.end.shape}"
    return ""
