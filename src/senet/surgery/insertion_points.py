"""From a block to the module where attention is hooked on, for each placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from torch import nn

from senet.graph.block import Block
from senet.graph.flow import between, finish, steps_back
from senet.graph.values import Call, Graph, Value

__all__ = ["CONTAINERS", "HookPoint", "HookPoints", "belongs"]

CONTAINERS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that run their children, or hand them out: one more would be run as one of the network's own."""


@dataclass(frozen=True)
class HookPoint:
    """A module's output or input.

    Attributes:
        call: The module's call.
        side: Which end of it.
        value: The map there.
    """

    call: Call
    side: Literal["output", "input"]
    value: Value


class HookPoints:
    """Where the placements of a traced network's blocks are.

    Args:
        graph: The trace.
    """

    def __init__(self, graph: Graph) -> None:
        self.returned: Mapping[Value, list[Call]] = graph.returned_by()
        self.times = graph.times_called()
        self.calls = graph.calls
        self.unhooked = graph.unhooked

    def of(self, block: Block, placement: str) -> HookPoint | str:
        """The block's place in that placement, or the reason why there is none."""
        place = self._of(block, placement)
        past_hooks = [path for path in self.unhooked if _holds(block.call.path, path)]
        if isinstance(place, str) and past_hooks:
            place += f"; {past_hooks[-1]} is run by .forward(), which goes past hooks: call the module itself"
        return place

    def _of(self, block: Block, placement: str) -> HookPoint | str:
        if placement == "standard":
            place = self.after(block.end, block.call) or self.after(block.end, None)
            return place or "no module's output is the branch's end"
        if placement == "conv3x3":
            return self._conv3x3(block)
        if block.merge is None or block.shortcut is None or block.fork is None:
            return f"has no shortcut, which placement={placement!r} needs"
        if block.merge.channel_dim != 1:
            return f"ends in a map whose channels come last, so there is no place for placement={placement!r}"
        if placement == "post":
            return self.after(finish(block.merge), None) or "no module's output is the block's"
        if placement == "identity":
            return self.after(block.shortcut, block.call) or "its shortcut is the input itself, without a module"
        return self._before(block.fork, block)

    def after(self, value: Value, around: Call | None) -> HookPoint | None:
        """The module, inside `around`, that ends with this map, or with one that becomes it without a weight.

        A module that computes something itself comes before one that only hands its input on (dropout, identity): the
        layer then directly follows the norm.
        """
        handing_on: HookPoint | None = None
        at: Value | None = value
        while at is not None and (around is None or at.call.within(around)):
            for call in self.returned.get(at, ()):
                if (around is None or (call.within(around) and call is not around)) and self._suits(call):
                    place = HookPoint(call, "output", at)
                    if at.call.within(call):
                        return place
                    handing_on = handing_on or place
            at = steps_back(at)
            if at is not None and at.channel_dim != 1:
                break
        if (
            handing_on is None
            and around is not None
            and around.single
            and around.outputs[0] is value
            and self._suits(around)
        ):
            return HookPoint(around, "output", value)
        return handing_on

    def _suits(self, call: Call) -> bool:
        """Whether the module can be given a child: a container would run it as one of its own."""
        if not call.path or isinstance(call.module, CONTAINERS):
            return False
        # One activation that serves many places is none of them.
        return self.times[call.module] == 1 or next(call.module.parameters(), None) is not None

    def _before(self, fork: Value, block: Block) -> HookPoint | str:
        for call in self.calls:
            starts = bool(call.inputs) and call.inputs[0] is fork and call.within(block.call) and call is not block.call
            if starts and self._suits(call) and any(v.call.within(call) and v in block.members for v in call.outputs):
                return HookPoint(call, "input", fork)
        return "no module starts the branch"

    def _conv3x3(self, block: Block) -> HookPoint | str:
        wide = [v for v in block.members if v.conv_rank and max(v.kernel) > 1]
        if not wide:
            return "has no convolution larger than 1x1"
        last = max(wide, key=lambda v: v.number)
        return self.after(finish(last), block.call) or "no module's output is that of its 3x3 convolution"

    def shared(self, places: Sequence[HookPoint]) -> bool:
        """Whether the places' module also runs where it is none of them."""
        return self.times[places[0].call.module] != len({place.call for place in places})


def belongs(call: Call, side: str, block: Block) -> bool:
    """Whether attention on that side of a module rescales a map of this block's branch, or its result."""
    if side == "input":
        return any(value in block.members for value in call.outputs)
    maps = {*block.members, block.end}
    if block.merge is not None:
        maps |= {block.merge, *between(block.merge, finish(block.merge))}
    return any(value in maps for value in call.outputs)


def _holds(path: str, inner: str) -> bool:
    return not path or inner == path or inner.startswith(f"{path}.")
