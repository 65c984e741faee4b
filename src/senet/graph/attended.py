"""Whether a block carries channel attention already, whoever wrote it."""

from __future__ import annotations

from senet.graph.block import Block
from senet.graph.flow import POOLS, SHAPES, TRANSPARENT, between, finish, reach
from senet.graph.values import Call, Value
from senet.nn import Attention

__all__ = ["attended"]


def attended(block: Block) -> bool:
    """Whether it holds an attention layer of this package, or multiplies a map by numbers drawn from its means."""
    values = {*block.members, block.end, *block.end.users}
    if block.merge is not None:
        values |= set(between(block.merge, finish(block.merge)))
        values |= _gated_after(block)
    return any(_inside_attention(v.call) for v in values) or any(_is_gating(v) for v in values)


def _gated_after(block: Block) -> set[Value]:
    """What the block's call still computes after the sum (a gate in the "post" placement)."""
    outputs = block.call.outputs
    if len(outputs) != 1 or block.call.parent is None:
        return set()
    assert block.merge is not None
    merge = block.merge.number
    return {v for v in reach([outputs[0]], block.call) if v.number > merge and v.call.within(block.call)}


def _inside_attention(call: Call | None) -> bool:
    while call is not None:
        if isinstance(call.module, Attention):
            return True
        call = call.parent
    return False


def _is_gating(value: Value) -> bool:
    """A product of a map with one factor a channel, drawn from the map by a pool."""
    if value.op != "mul" or len(value.inputs) != 2:
        return False
    for factor, other in (value.inputs, value.inputs[::-1]):
        bare = factor
        while bare.op in (*SHAPES, *TRANSPARENT) and bare.inputs and not _spaceless(bare, other):
            bare = bare.inputs[0]
        if _spaceless(bare, other) and _pooled(bare):
            return True
    return False


def _spaceless(factor: Value, other: Value) -> bool:
    return len(factor.shape) == 2 or (
        len(factor.shape) >= 3 and all(s == 1 for s in factor.shape[-max(1, len(other.shape) - 2) :])
    )


def _pooled(value: Value, limit: int = 40) -> bool:
    """Whether a pool over the map lies a few operations behind."""
    seen, queue = {value}, [value]
    while queue and len(seen) < limit:
        current = queue.pop(0)
        if any(pool in current.op for pool in POOLS) and current.inputs and _spaceless(current, current.inputs[0]):
            return True
        for source in current.inputs:
            if source not in seen:
                seen.add(source)
                queue.append(source)
    return False
