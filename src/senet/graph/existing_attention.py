"""Detect whether a block already has channel attention, of any library."""

from __future__ import annotations

from senet.graph.block import Block
from senet.graph.flow import POOLS, SHAPES, TRANSPARENT, between, finish, reach
from senet.graph.values import Call, Value
from senet.nn import Attention

__all__ = ["has_attention"]


def has_attention(block: Block) -> bool:
    """Whether it contains an attention layer of this package, or multiplies a feature map by a function of its pool."""
    values = {*block.members, block.end, *block.end.users}
    if block.merge is not None:
        values |= set(between(block.merge, finish(block.merge)))
        values |= _gated_after(block)
    return any(_inside_attention(v.call) for v in values) or any(_is_gating(v) for v in values)


def _gated_after(block: Block) -> set[Value]:
    """Return the values that the block's call computes after the sum (a gate in the "post" placement)."""
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
    """Whether it multiplies a feature map by one factor per channel, computed from a pool of it."""
    if value.op != "mul" or len(value.inputs) != 2:
        return False
    for factor, other in (value.inputs, value.inputs[::-1]):
        source = factor
        while source.op in (*SHAPES, *TRANSPARENT) and source.inputs and not _is_spatially_pooled(source, other):
            source = source.inputs[0]
        if _is_spatially_pooled(source, other) and _pooled(source):
            return True
    return False


def _is_spatially_pooled(factor: Value, other: Value) -> bool:
    return len(factor.shape) == 2 or (
        len(factor.shape) >= 3 and all(s == 1 for s in factor.shape[-max(1, len(other.shape) - 2) :])
    )


def _pooled(value: Value, limit: int = 40) -> bool:
    """Whether a pool over the feature map is among the inputs, a few operations back."""
    seen, queue = {value}, [value]
    while queue and len(seen) < limit:
        current = queue.pop(0)
        if (
            any(pool in current.op for pool in POOLS)
            and current.inputs
            and _is_spatially_pooled(current, current.inputs[0])
        ):
            return True
        for operand in current.inputs:
            if operand not in seen:
                seen.add(operand)
                queue.append(operand)
    return False
