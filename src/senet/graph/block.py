"""A block: a part of a network that can have attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from senet.graph.flow import reach
from senet.graph.values import Call, Value

__all__ = ["HAS_ATTENTION", "SKIP", "Block", "block_ending", "no_feature_map"]

HAS_ATTENTION: Final = "already has attention"
"""The reason of a block with attention."""

SKIP: Final = "is a long skip over other blocks"
"""The reason of a long skip connection."""


@dataclass(eq=False, repr=False)
class Block:
    """A part of a network that can have attention.

    Attributes:
        kind: "residual block", "concatenation", "concatenated branch", "dense layer", "aggregation" (a concatenation of
            all earlier feature maps and a convolution), "separable block", "block without shortcut", "plain
            convolution", or "module" (selected by the user).
        call: The smallest module call that contains it.
        end: The feature map that attention rescales in the standard placement: the branch before the sum, the
            concatenation, the dense layer's new channels, or the activated convolution. For a branch that ends in
            channels-last format, the feature map of its last convolution.
        members: The values computed in it that lead to `end`.
        merge: The sum of a residual block.
        shortcut: The other operand of the sum.
        fork: The feature map where branch and shortcut separate.
        shortcut_values: The values computed only for the shortcut.
        reason: Why it gets no attention. Empty if it can.

    Example:
        >>> import senet
        >>> from senet.graph import find_blocks, trace
        >>> block = find_blocks(trace(senet.create_model("cifar_resnet20", depth=1)))[0]
        >>> block.kind, block.call.path, block.end.shape, block.merge.op
        ('residual block', 'stages.2.0', (2, 16, 32, 32), 'add')
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
    """Return the block of all values within `call` that lead to `end`. None if `end` isn't a feature map."""
    block = Block(kind, call, end, frozenset(v for v in reach([end], call) if v.call.within(call)))
    return None if no_feature_map(block) else block


def no_feature_map(block: Block) -> str:
    """Return why the block's end can't be rescaled by channel. Empty if it can."""
    rank = len(block.end.shape) - 2
    if not any(v.conv_rank for v in block.members):
        return "has no convolution" if rank > 1 else "works on tokens, without a convolution"
    if rank not in (1, 2, 3) or not any(v.conv_rank == rank for v in block.members):
        return f"ends in a tensor of shape {block.end.shape}, not in a feature map (N, C, *spatial)"
    if block.end.channel_dim == 1 and block.end.channels == 1:
        return "ends in a feature map of one channel"
    if block.end.channel_dim != 1:
        return f"ends in a channels-last feature map: {block.end.shape}"
    return ""
