"""Find the module of a block to which attention is attached, for each placement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from torch import nn

from senet.graph.block import Block
from senet.graph.flow import between, finish, steps_back
from senet.graph.values import Call, Graph, Value

__all__ = ["CONTAINERS", "HookPoint", "HookPointFinder", "belongs"]

CONTAINERS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that run or return their children. An added child would run as one of the network's own."""


@dataclass(frozen=True)
class HookPoint:
    """A module's output or input.

    Attributes:
        call: The call of the module.
        side: Its output or input.
        value: The feature map there.
    """

    call: Call
    side: Literal["output", "input"]
    value: Value


class HookPointFinder:
    """Find the hook points of the blocks of a traced network.

    Args:
        graph: The graph of the network.
    """

    def __init__(self, graph: Graph) -> None:
        self.returned: Mapping[Value, list[Call]] = graph.returned_by()
        self.times = graph.times_called()
        self.calls = graph.calls
        self.unhooked = graph.unhooked

    def find(self, block: Block, placement: str) -> HookPoint | str:
        """Return the block's hook point for a placement, or the reason why it has none."""
        hook_point = self._find(block, placement)
        past_hooks = [path for path in self.unhooked if _contains(block.call.path, path)]
        if isinstance(hook_point, str) and past_hooks:
            hook_point += f"; {past_hooks[-1]} is called by .forward(), which skips hooks: call the module itself"
        return hook_point

    def _find(self, block: Block, placement: str) -> HookPoint | str:
        if placement == "standard":
            hook_point = self.after(block.end, block.call) or self.after(block.end, None)
            return hook_point or "no module returns the branch's last feature map"
        if placement == "conv3x3":
            return self._conv3x3(block)
        if block.merge is None or block.shortcut is None or block.fork is None:
            return f"has no shortcut, which placement={placement!r} needs"
        if block.merge.channel_dim != 1:
            return f"ends in a channels-last feature map, which doesn't support placement={placement!r}"
        if placement == "post":
            return self.after(finish(block.merge), None) or "no module returns the block's output"
        if placement == "identity":
            return self.after(block.shortcut, block.call) or "its shortcut is the input itself, without a module"
        return self._before(block.fork, block)

    def after(self, value: Value, around: Call | None) -> HookPoint | None:
        """Return the module inside `around` that returns this feature map, up to weightless operations after it.

        Modules that compute something are preferred to modules that pass on their input (dropout, identity). The
        attention then directly follows the norm.
        """
        pass_through: HookPoint | None = None
        at: Value | None = value
        while at is not None and (around is None or at.call.within(around)):
            for call in self.returned.get(at, ()):
                if (around is None or (call.within(around) and call is not around)) and self._is_suitable(call):
                    hook_point = HookPoint(call, "output", at)
                    if at.call.within(call):
                        return hook_point
                    pass_through = pass_through or hook_point
            at = steps_back(at)
            if at is not None and at.channel_dim != 1:
                break
        if (
            pass_through is None
            and around is not None
            and around.single
            and around.outputs[0] is value
            and self._is_suitable(around)
        ):
            return HookPoint(around, "output", value)
        return pass_through

    def _is_suitable(self, call: Call) -> bool:
        """Whether attention can be attached to the module. A container would run it as one of its own children."""
        if not call.path or isinstance(call.module, CONTAINERS):
            return False
        # A shared activation belongs to no single insertion point.
        return self.times[call.module] == 1 or next(call.module.parameters(), None) is not None

    def _before(self, fork: Value, block: Block) -> HookPoint | str:
        for call in self.calls:
            starts = bool(call.inputs) and call.inputs[0] is fork and call.within(block.call) and call is not block.call
            if (
                starts
                and self._is_suitable(call)
                and any(v.call.within(call) and v in block.members for v in call.outputs)
            ):
                return HookPoint(call, "input", fork)
        return "no module begins the branch"

    def _conv3x3(self, block: Block) -> HookPoint | str:
        wide = [v for v in block.members if v.conv_rank and max(v.kernel) > 1]
        if not wide:
            return "has no convolution larger than 1x1"
        last = max(wide, key=lambda v: v.number)
        return self.after(finish(last), block.call) or "no module returns the output of its 3x3 convolution"

    def is_shared(self, hook_points: Sequence[HookPoint]) -> bool:
        """Whether the module also runs at other points."""
        return self.times[hook_points[0].call.module] != len({hook_point.call for hook_point in hook_points})


def belongs(call: Call, side: str, block: Block) -> bool:
    """Whether attention on this side of a module rescales the block's branch or its output."""
    if side == "input":
        return any(value in block.members for value in call.outputs)
    feature_maps = {*block.members, block.end}
    if block.merge is not None:
        feature_maps |= {block.merge, *between(block.merge, finish(block.merge))}
    return any(value in feature_maps for value in call.outputs)


def _contains(path: str, inner: str) -> bool:
    return not path or inner == path or inner.startswith(f"{path}.")
