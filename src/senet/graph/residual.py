"""Find residual blocks: sums of a branch and a shortcut with a common origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from senet.graph.block import SKIP, Block, no_feature_map
from senet.graph.flow import finish, is_product, reach
from senet.graph.values import Graph, Value

__all__ = ["residual_blocks"]

ADDITIONS: Final = ("add", "add_relu", "sub")


def residual_blocks(graph: Graph) -> list[Block]:
    """Return all residual blocks, in the order of computation."""
    return _outermost(list(_sums(graph)))


def _sums(graph: Graph) -> Iterator[Block]:
    for value in graph.values:
        if value.op in ADDITIONS and len(value.inputs) == 2:
            first, second = value.inputs
            if first is not second and first.shape == second.shape and len(value.shape) > 2:
                block = _residual_block(value, first, second)
                if block is not None:
                    yield block


def _residual_block(merge: Value, first: Value, second: Value) -> Block | None:
    """Return the block of this sum, if its operands have a common origin and one of them more convolutions."""
    call = merge.call
    scope = call
    behind = [reach([operand], scope) for operand in (first, second)]
    common = behind[0] & behind[1]
    if not common and call.parent is not None and (first in call.inputs or second in call.inputs):
        # The shortcut was computed outside and passed in, so the common origin is in the caller.
        scope = call.parent
        behind = [reach([operand], scope) for operand in (first, second)]
        common = behind[0] & behind[1]
    if not common:
        return None  # operands of different origin: the sum of a pyramid or decoder
    own = [frozenset(v for v in values - common if v.call.within(scope)) for values in behind]
    weights = [sum(v.weighted for v in values) for values in own]
    if weights[0] == weights[1]:
        return None  # equal parallel branches: neither is the shortcut
    branch = 0 if weights[0] > weights[1] else 1
    outside = [[v for v in values if not v.call.within(call)] for values in own]
    projection = outside[1 - branch]
    if any(v.weighted for v in outside[branch]) or any(len(v.inputs) > 1 for v in projection):
        return None  # two earlier feature maps in a cell: an outside shortcut has at most a projection
    end, shortcut = (first, second) if branch == 0 else (second, first)
    block = Block(
        kind="residual block",
        call=call,
        end=end,
        members=own[branch],
        merge=merge,
        shortcut=shortcut,
        fork=max(common, key=lambda v: v.number),
        shortcut_values=own[1 - branch],
    )
    block.reason = no_feature_map(block)
    inner = _last_feature_map(block) if block.reason else None
    if inner is not None:
        block.end, block.reason = inner, ""
    return block


def _last_feature_map(block: Block) -> Value | None:
    """Return the last convolution's feature map in a branch that continues channels-last, without self-attention."""
    rank = len(block.end.shape) - 2
    if block.end.channel_dim != rank + 1 or any(is_product(v) for v in block.members):
        return None
    candidates = [v for v in block.members if v.conv_rank == rank and v.channel_dim == 1 and v.channels > 1]
    return finish(max(candidates, key=lambda v: v.number)) if candidates else None


def _outermost(blocks: list[Block]) -> list[Block]:
    """Remove sums inside another block's branch, and mark skips over several blocks."""
    inside = {block: [u for u in blocks if u is not block and u.merge in block.members] for block in blocks}
    long = {block for block in blocks if any(_is_skip_over(block, inner, blocks) for inner in inside[block])}
    covered = {inner for block in blocks if block not in long for inner in inside[block]}
    for block in long:
        block.reason = SKIP
    return [block for block in blocks if block not in covered]


def _is_skip_over(block: Block, inner: Block, blocks: Sequence[Block]) -> bool:
    """Whether the inner sum is a separate block: of another module, or of a chain."""
    if inner.reason:
        return False
    if inner.call is not block.call:
        return True
    return any(other.merge is inner.fork and other.merge in block.members for other in blocks)
