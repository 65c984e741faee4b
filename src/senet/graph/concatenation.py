"""Find concatenations: of Inception, dense layers, aggregations, and ShuffleNet's branch with passed channels."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from senet.graph.block import SKIP, Block, block_ending
from senet.graph.flow import reach, source_of
from senet.graph.values import Graph, Value

__all__ = ["concatenations"]


def concatenations(graph: Graph, residual: Sequence[Block]) -> list[Block]:
    """Return all concatenations outside the given residual blocks."""
    kept = [block for block in residual if block.reason != SKIP]
    inner = {value for block in kept for value in (*block.members, *block.shortcut_values)}
    merges = {block.merge: block for block in kept}
    found: dict[Value, Block] = {}
    for value in graph.values:
        if value.op != "cat" or len(value.shape) < 3 or not _along_channels(value) or value in inner:
            continue
        if _in_parts(value):
            continue
        dual, block = _dual_path(value, kept)
        if not dual:
            block = _concatenation(value, graph)
        if block is None or block.end in inner:
            continue
        if any(merges[v].call is not block.call for v in block.members & merges.keys()):
            continue  # it contains residual blocks
        # Of two with the same end (a dense block's and its last layer's), the inner one.
        if block.end not in found or block.call.depth > found[block.end].call.depth:
            found[block.end] = block
    blocks = list(found.values())
    # A dense block's own concatenation, or a cross-stage one, contains other blocks.
    enclosing = [
        u for u in blocks if any(v in u.members and e is not u and e.call is not u.call for v, e in found.items())
    ]
    return [block for block in blocks if block not in enclosing]


def _along_channels(value: Value) -> bool:
    dim = value.arguments[0] if value.arguments else 0
    return isinstance(dim, int) and dim % len(value.shape) == 1


def _in_parts(value: Value) -> bool:
    """Whether it is one convolution split into parts: plain convolutions of different inputs (mixed kernels)."""
    plain = len(value.inputs) > 1 and all(operand.conv_rank for operand in value.inputs)
    return plain and len({operand.inputs[0] for operand in value.inputs}) == len(value.inputs)


def _dual_path(value: Value, residual: Sequence[Block]) -> tuple[bool, Block | None]:
    """Whether it is a dual path (parts of one feature map, one with a shortcut), and the block of new channels."""
    for block in residual:
        if block.merge not in value.inputs or block.shortcut is None:
            continue
        sources = {source_of(operand, block.call) for operand in (block.end, block.shortcut)}
        rest = [operand for operand in value.inputs if operand not in (block.merge, *sources)]
        new = [operand for operand in rest if source_of(operand, block.call) not in sources]
        if len(new) < len(rest):
            return True, block_ending("concatenated branch", value.call, new[0]) if len(new) == 1 else None
    return False, None


def _concatenation(value: Value, graph: Graph) -> Block | None:
    call = value.call
    collected = _collected(value, graph)
    if collected is not None:
        return collected
    operands = [(operand, source_of(operand, call), reach([operand], call)) for operand in value.inputs]
    # Inputs from outside, and inputs of all later operands, pass through. The others are new.
    passing = [
        source
        for operand, source, _ in operands
        if not source.call.within(call) or _precedes(operand, [(o, behind) for o, _, behind in operands])
    ]
    new = [(operand, behind) for operand, source, behind in operands if source not in passing]
    weighted = [(operand, behind) for operand, behind in new if any(v.weighted for v in behind)]
    if not weighted:
        return None
    if passing or len(weighted) == 1:
        branch, behind = weighted[-1]
        if passing and any(_is_coarser(v, branch) for v in behind):
            return None  # a long skip, as in a U-Net
        return block_ending("concatenated branch", call, branch) if not passing or _related(passing, behind) else None
    whole = call.single and call is not graph.root and value in reach([call.outputs[0]], call)
    if not whole:
        return block_ending("concatenation", call, value)
    end = call.outputs[0]
    if end.channel_dim is None and end.shape == value.shape:
        end.channel_dim = 1  # shuffled channels
    return block_ending("concatenation", call, end)


def _is_coarser(value: Value, other: Value) -> bool:
    """Whether it is a spatial convolution at a lower resolution."""
    return value.conv_rank > 0 and max(value.kernel) > 1 and math.prod(value.space) < math.prod(other.space)


def _precedes(operand: Value, operands: Sequence[tuple[Value, frozenset[Value]]]) -> bool:
    later = [behind for other, behind in operands if other.number > operand.number]
    return bool(later) and all(operand in behind for behind in later)


def _collected(value: Value, graph: Graph) -> Block | None:
    """Return the block of a concatenation of earlier feature maps with convolutions after it."""
    for call in (value.call, value.call.parent):
        if call is None or call is graph.root or not call.single or isinstance(call.module, nn.Sequential):
            continue
        end = call.outputs[0]
        members = reach([end], call)
        if value not in members or end is value:
            continue
        behind = reach([value], call)
        sources = {source_of(operand, call) for operand in value.inputs}
        passing = [source for source in sources if not source.call.within(call)]
        raw = all(operand is source for operand in value.inputs for source in [source_of(operand, call)])
        if not any(v.weighted for v in members - behind):
            continue
        if (len(passing) == len(sources) and raw) or (passing and _related(passing, behind - {value})):
            return block_ending("dense layer" if len(passing) == len(sources) else "aggregation", call, end)
    return None


def _related(passing: Sequence[Value], reached: frozenset[Value]) -> bool:
    """Whether new feature maps depend on passed ones, or on another part of the same feature map."""
    used = {source for value in reached for source in value.inputs}
    return any(p in used or (p.inputs and p.inputs[0] in used) for p in passing)
