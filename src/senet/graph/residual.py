"""Residual units: a sum of a branch and a shortcut that part from one map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from senet.graph.block import SKIP, Unit, no_map
from senet.graph.flow import finish, is_product, reach
from senet.graph.values import Graph, Value

__all__ = ["residual_units"]

ADDITIONS: Final = ("add", "add_relu", "sub")


def residual_units(graph: Graph) -> list[Unit]:
    """All of them, in the order of computation."""
    return _outermost(list(_sums(graph)))


def _sums(graph: Graph) -> Iterator[Unit]:
    for value in graph.values:
        if value.op in ADDITIONS and len(value.inputs) == 2:
            first, second = value.inputs
            if first is not second and first.shape == second.shape and len(value.shape) > 2:
                unit = _residual_unit(value, first, second)
                if unit is not None:
                    yield unit


def _residual_unit(merge: Value, first: Value, second: Value) -> Unit | None:
    """The unit that ends in this sum, if its operands part from one map and one of them has more convolutions."""
    call = merge.call
    scope = call
    behind = [reach([operand], scope) for operand in (first, second)]
    common = behind[0] & behind[1]
    if not common and call.parent is not None and (first in call.inputs or second in call.inputs):
        # The shortcut was made outside and handed in: they part where the caller works.
        scope = call.parent
        behind = [reach([operand], scope) for operand in (first, second)]
        common = behind[0] & behind[1]
    if not common:
        return None  # operands from different maps: a pyramid's or a decoder's sum
    own = [frozenset(v for v in values - common if v.call.within(scope)) for values in behind]
    weights = [sum(v.weighted for v in values) for values in own]
    if weights[0] == weights[1]:
        return None  # equal branches side by side: no one of them is the shortcut
    branch = 0 if weights[0] > weights[1] else 1
    outside = [[v for v in values if not v.call.within(call)] for values in own]
    projection = outside[1 - branch]
    if any(v.weighted for v in outside[branch]) or any(len(v.inputs) > 1 for v in projection):
        return None  # two maps of a chain, handed to a cell; a shortcut from outside is a projection at most
    end, shortcut = (first, second) if branch == 0 else (second, first)
    unit = Unit(
        kind="residual unit",
        call=call,
        end=end,
        members=own[branch],
        merge=merge,
        shortcut=shortcut,
        fork=max(common, key=lambda v: v.number),
        aside=own[1 - branch],
    )
    unit.reason = no_map(unit)
    inner = _last_map(unit) if unit.reason else None
    if inner is not None:
        unit.end, unit.reason = inner, ""
    return unit


def _last_map(unit: Unit) -> Value | None:
    """The last convolution's map in a branch that continues with channels last (and no attention among positions)."""
    rank = len(unit.end.shape) - 2
    if unit.end.channel_dim != rank + 1 or any(is_product(v) for v in unit.members):
        return None
    maps = [v for v in unit.members if v.conv_rank == rank and v.channel_dim == 1 and v.channels > 1]
    return finish(max(maps, key=lambda v: v.number)) if maps else None


def _outermost(units: list[Unit]) -> list[Unit]:
    """Leave out sums inside a unit's branch, and skips over several units."""
    inside = {unit: [u for u in units if u is not unit and u.merge in unit.members] for unit in units}
    long = {unit for unit in units if any(_is_skip_over(unit, inner, units) for inner in inside[unit])}
    covered = {inner for unit in units if unit not in long for inner in inside[unit]}
    for unit in long:
        unit.reason = SKIP
    return [unit for unit in units if unit not in covered]


def _is_skip_over(unit: Unit, inner: Unit, units: Sequence[Unit]) -> bool:
    """Whether what lies inside is a unit by itself: another module's, or one of a chain."""
    if inner.reason:
        return False
    if inner.call is not unit.call:
        return True
    return any(other.merge is inner.fork and other.merge in unit.members for other in units)
