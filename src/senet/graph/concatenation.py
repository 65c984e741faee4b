"""Concatenations: Inception's, a dense layer's, an aggregation's, and a branch beside a passed part (ShuffleNet)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from senet.graph.block import SKIP, Unit, unit_ending
from senet.graph.flow import reach, source_of
from senet.graph.values import Graph, Value

__all__ = ["concatenations"]


def concatenations(graph: Graph, residual: Sequence[Unit]) -> list[Unit]:
    """All of them, outside the given residual units."""
    served = [unit for unit in residual if unit.reason != SKIP]
    inner = {value for unit in served for value in (*unit.members, *unit.aside)}
    merges = {unit.merge: unit for unit in served}
    found: dict[Value, Unit] = {}
    for value in graph.values:
        if value.op != "cat" or len(value.shape) < 3 or not _along_channels(value) or value in inner:
            continue
        if _in_parts(value):
            continue
        dual, unit = _dual_path(value, served)
        if not dual:
            unit = _concatenation(value, graph)
        if unit is None or unit.end in inner:
            continue
        if any(merges[v].call is not unit.call for v in unit.members & merges.keys()):
            continue  # it holds residual units
        # Two that end in one map (a dense block's and its last layer's): the inner one.
        if unit.end not in found or unit.call.depth > found[unit.end].call.depth:
            found[unit.end] = unit
    units = list(found.values())
    # A dense block's own concatenation, or a cross-stage one, holds units that are served already.
    holding = [
        u for u in units if any(v in u.members and e is not u and e.call is not u.call for v, e in found.items())
    ]
    return [unit for unit in units if unit not in holding]


def _along_channels(value: Value) -> bool:
    dim = value.arguments[0] if value.arguments else 0
    return isinstance(dim, int) and dim % len(value.shape) == 1


def _in_parts(value: Value) -> bool:
    """Whether it is one convolution in parts: bare convolutions, each of another map or part (mixed kernels)."""
    bare = len(value.inputs) > 1 and all(operand.conv_rank for operand in value.inputs)
    return bare and len({operand.inputs[0] for operand in value.inputs}) == len(value.inputs)


def _dual_path(value: Value, residual: Sequence[Unit]) -> tuple[bool, Unit | None]:
    """Whether it joins parts of one map again, to one of which a shortcut was added; and what is new beside these."""
    for unit in residual:
        if unit.merge not in value.inputs or unit.shortcut is None:
            continue
        sources = {source_of(operand, unit.call) for operand in (unit.end, unit.shortcut)}
        rest = [operand for operand in value.inputs if operand not in (unit.merge, *sources)]
        new = [operand for operand in rest if source_of(operand, unit.call) not in sources]
        if len(new) < len(rest):
            return True, unit_ending("concatenated branch", value.call, new[0]) if len(new) == 1 else None
    return False, None


def _concatenation(value: Value, graph: Graph) -> Unit | None:
    call = value.call
    collected = _collected(value, graph)
    if collected is not None:
        return collected
    operands = [(operand, source_of(operand, call), reach([operand], call)) for operand in value.inputs]
    # What comes from outside, or what all later operands were made from, goes through; the rest is new.
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
        return unit_ending("concatenated branch", call, branch) if not passing or _kin(passing, behind) else None
    whole = call.single and call is not graph.root and value in reach([call.outputs[0]], call)
    if not whole:
        return unit_ending("concatenation", call, value)
    end = call.outputs[0]
    if end.channel_dim is None and end.shape == value.shape:
        end.channel_dim = 1  # shuffled channels are channels
    return unit_ending("concatenation", call, end)


def _is_coarser(value: Value, other: Value) -> bool:
    """Whether it is a spatial convolution at a lower resolution."""
    return value.conv_rank > 0 and max(value.kernel) > 1 and math.prod(value.space) < math.prod(other.space)


def _precedes(operand: Value, operands: Sequence[tuple[Value, frozenset[Value]]]) -> bool:
    later = [behind for other, behind in operands if other.number > operand.number]
    return bool(later) and all(operand in behind for behind in later)


def _collected(value: Value, graph: Graph) -> Unit | None:
    """A concatenation of all maps so far that is only the beginning, and convolutions after it, of the unit."""
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
        if (len(passing) == len(sources) and raw) or (passing and _kin(passing, behind - {value})):
            return unit_ending("dense layer" if len(passing) == len(sources) else "aggregation", call, end)
    return None


def _kin(passing: Sequence[Value], reached: frozenset[Value]) -> bool:
    """Whether new maps come from those that pass through, or from another part of the same map."""
    used = {source for value in reached for source in value.inputs}
    return any(p in used or (p.inputs and p.inputs[0] in used) for p in passing)
