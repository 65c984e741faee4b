"""Find a network's units by how its maps flow, not by what its classes are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from senet.graph.attended import attended
from senet.graph.block import CARRIES, Unit, no_map, unit_ending
from senet.graph.concatenation import concatenations
from senet.graph.flow import around, between, finish
from senet.graph.residual import residual_units
from senet.graph.values import NORMS, Graph, Value

__all__ = ["find_units"]


def find_units(graph: Graph) -> list[Unit]:
    """All units, in the order of computation; those that are no place for attention say why in `reason`."""
    residual = residual_units(graph)
    joined = concatenations(graph, residual)
    # Sums that a cell computes on the way to its concatenation are parts of the cell.
    parts = {u for u in residual for c in joined if u.call is c.call and u.merge in c.members}
    found = [*(u for u in residual if u not in parts), *joined]
    found += _like(graph, found)
    found += _separable_blocks(graph, found)
    if not found:
        found = list(_plain_convolutions(graph))
    for unit in found:
        if not unit.reason and attended(unit):
            unit.reason = CARRIES
    return sorted(found, key=lambda unit: unit.end.number)


def _like(graph: Graph, units: Sequence[Unit]) -> list[Unit]:
    """Modules of a found unit's class in which nothing is added, because size or channels change there."""
    served = {unit.call for unit in units}
    aside = {value for unit in units for value in unit.aside}
    kinds = {type(unit.call.module) for unit in units if unit.kind == "residual unit" and not unit.reason}
    kinds -= {nn.Sequential, nn.ModuleList, type(graph.root.module)}
    found = []
    for call in graph.calls:
        if type(call.module) in kinds and call.single and call not in served and len(call.outputs[0].shape) > 2:
            if call.outputs[0] in aside or any(s.within(call) or call.within(s) for s in served):
                continue
            unit = unit_ending("unit without shortcut", call, call.outputs[0])
            if unit is not None:
                found.append(unit)
    return found


def _separable_blocks(graph: Graph, units: Sequence[Unit]) -> list[Unit]:
    """A depthwise convolution and the pointwise one after it, outside all other units."""
    taken = {value for unit in units for value in (*unit.members, *unit.aside, unit.end)}
    found = []
    for value in graph.values:
        if value in taken or not value.conv_rank or value.groups > 1 or max(value.kernel) > 1:
            continue
        behind = value.inputs[0]
        path = [value]
        # Not through a pool: what follows one is an attention's own layer.
        while not behind.conv_rank and behind.inputs and behind not in taken and behind.space == value.space:
            path.append(behind)
            behind = behind.inputs[0]
        if not behind.depthwise or behind in taken or behind.space != value.space:
            continue
        end = finish(value)
        call = around([behind, end], graph)
        unit = Unit("separable block", call, end, frozenset([*path, behind, *between(value, end)]))
        unit.reason = no_map(unit)
        found.append(unit)
    return found


def _plain_convolutions(graph: Graph) -> Iterator[Unit]:
    returned = set(graph.root.outputs)
    for value in graph.values:
        if not value.conv_rank or value.depthwise or value.conv_rank != len(value.shape) - 2:
            continue
        end = finish(value)
        if end is value or end in returned or value in returned or not _activated(value, end):
            continue  # a classifier or a projection
        if max(end.space) == 1:
            continue  # a fully connected layer in a convolution's clothes
        yield Unit("plain convolution", around([value, end], graph), end, frozenset([value, *between(value, end)]))


def _activated(value: Value, end: Value) -> bool:
    return any(not any(norm in v.op for norm in NORMS) and v.op != "mul" for v in between(value, end))
