"""Find a network's blocks by the flow of its feature maps, independent of class names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from senet.graph.block import HAS_ATTENTION, Block, block_ending, no_feature_map
from senet.graph.concatenation import concatenations
from senet.graph.existing_attention import has_attention
from senet.graph.flow import around, between, finish
from senet.graph.residual import residual_blocks
from senet.graph.values import NORMS, Graph, Value

__all__ = ["find_blocks"]


def find_blocks(graph: Graph) -> list[Block]:
    """Return all blocks in the order of computation. Blocks that can't have attention have a `reason`.

    Example:
        >>> import senet
        >>> from senet.graph import find_blocks, trace
        >>> blocks = find_blocks(trace(senet.create_model("cifar_resnet20", depth=1)))
        >>> len(blocks), {block.kind for block in blocks}
        (3, {'residual block'})
    """
    residual = residual_blocks(graph)
    concatenated = concatenations(graph, residual)
    # Sums inside a cell that leads to a concatenation are parts of the cell.
    parts = {u for u in residual for c in concatenated if u.call is c.call and u.merge in c.members}
    found = [*(u for u in residual if u not in parts), *concatenated]
    found += _without_sum(graph, found)
    found += _separable_blocks(graph, found)
    if not found:
        found = list(_plain_convolutions(graph))
    for block in found:
        if not block.reason and has_attention(block):
            block.reason = HAS_ATTENTION
    return sorted(found, key=lambda block: block.end.number)


def _without_sum(graph: Graph, blocks: Sequence[Block]) -> list[Block]:
    """Return modules of a found block's class without a sum, because size or channels change there."""
    calls = {block.call for block in blocks}
    shortcut_values = {value for block in blocks for value in block.shortcut_values}
    kinds = {type(block.call.module) for block in blocks if block.kind == "residual block" and not block.reason}
    kinds -= {nn.Sequential, nn.ModuleList, type(graph.root.module)}
    found = []
    for call in graph.calls:
        if type(call.module) in kinds and call.single and call not in calls and len(call.outputs[0].shape) > 2:
            if call.outputs[0] in shortcut_values or any(s.within(call) or call.within(s) for s in calls):
                continue
            block = block_ending("block without shortcut", call, call.outputs[0])
            if block is not None:
                found.append(block)
    return found


def _separable_blocks(graph: Graph, blocks: Sequence[Block]) -> list[Block]:
    """Return separable convolutions (depthwise, then pointwise) outside all other blocks."""
    taken = {value for block in blocks for value in (*block.members, *block.shortcut_values, block.end)}
    found = []
    for value in graph.values:
        if value in taken or not value.conv_rank or value.groups > 1 or max(value.kernel) > 1:
            continue
        behind = value.inputs[0]
        path = [value]
        # Not through a pool: a pool is followed by an attention's own layers.
        while not behind.conv_rank and behind.inputs and behind not in taken and behind.space == value.space:
            path.append(behind)
            behind = behind.inputs[0]
        if not behind.depthwise or behind in taken or behind.space != value.space:
            continue
        end = finish(value)
        call = around([behind, end], graph)
        block = Block("separable block", call, end, frozenset([*path, behind, *between(value, end)]))
        block.reason = no_feature_map(block)
        found.append(block)
    return found


def _plain_convolutions(graph: Graph) -> Iterator[Block]:
    returned = set(graph.root.outputs)
    for value in graph.values:
        if not value.conv_rank or value.depthwise or value.conv_rank != len(value.shape) - 2:
            continue
        end = finish(value)
        if end is value or end in returned or value in returned or not _activated(value, end):
            continue  # a classifier or a projection
        if max(end.space) == 1:
            continue  # a fully connected layer written as a convolution
        yield Block("plain convolution", around([value, end], graph), end, frozenset([value, *between(value, end)]))


def _activated(value: Value, end: Value) -> bool:
    return any(not any(norm in v.op for norm in NORMS) and v.op != "mul" for v in between(value, end))
