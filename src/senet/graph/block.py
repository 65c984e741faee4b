"""A block: a part of a network that attention can sit in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from senet.graph.flow import reach
from senet.graph.values import Call, Value

__all__ = ["CARRIES", "SKIP", "Block", "block_ending", "no_feature_map"]

CARRIES: Final = "carries attention already"
"""The reason of a block that has what it needs."""

SKIP: Final = "is a skip over blocks of their own"
"""The reason of a long skip connection."""


@dataclass(eq=False, repr=False)
class Block:
    """A part of a network that attention can sit in.

    Attributes:
        kind: "residual block", "concatenation", "concatenated branch", "dense layer", "aggregation" (of all maps so
            far, and a convolution), "separable block", "block without shortcut", "plain convolution", or "module"
            (the user's choice).
        call: The smallest module call that holds it.
        end: The map that attention rescales in the standard placement: the branch before the sum, the concatenation,
            the dense layer's new channels, the activated convolution. A branch that ends with channels last: its last
            convolution's map.
        members: The values computed in it, as far as they lead to `end`.
        merge: The sum of a residual block.
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
    shortcut_values: frozenset[Value] = frozenset()
    reason: str = ""


def block_ending(kind: str, call: Call, end: Value) -> Block | None:
    """A block of which all that leads to `end` within `call` is part; None if `end` is no map."""
    block = Block(kind, call, end, frozenset(v for v in reach([end], call) if v.call.within(call)))
    return None if no_feature_map(block) else block


def no_feature_map(block: Block) -> str:
    """Why the block's end can't be rescaled channel by channel; empty if it can."""
    rank = len(block.end.shape) - 2
    if not any(v.conv_rank for v in block.members):
        return "has no convolution" if rank > 1 else "works on tokens, without a convolution"
    if rank not in (1, 2, 3) or not any(v.conv_rank == rank for v in block.members):
        return f"ends in a tensor of shape {block.end.shape}, which is no map (N, C, space)"
    if block.end.channel_dim == 1 and block.end.channels == 1:
        return "ends in a map of one channel"
    if block.end.channel_dim != 1:
        return f"ends in a map whose channels come last: {block.end.shape}"
    return ""
