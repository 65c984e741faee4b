"""Fold norms and activations into convolutions, and join attention with its neighbours, by the flow of feature maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from senet.fusion.convolutions import FusedConv, fused_conv
from senet.fusion.gated_chain import GatedChain
from senet.fusion.layers import FusedBlock
from senet.fusion.residual import fused_block, is_foldable, is_norm
from senet.gates.excitation import gate_from_means
from senet.graph.values import Call, Graph, Value
from senet.nn.activations import activation_number
from senet.nn.epilogue import untouched, unwatched

__all__ = ["Replacements", "fuse", "replace"]

Replacements = Mapping[nn.Module, nn.Module]
"""From modules of a network to the modules in their places."""


def fuse(graph: Graph) -> Replacements:
    """Return what replaces the modules of a traced network.

    A convolution takes the norm after it and the activation after that, which become identities. An attention layer
    takes the convolutions around it, within the module that calls it.
    """
    return _Fusing(graph).done()


@dataclass(eq=False)
class _Conv:
    """A convolution with the norm and activation that it takes in."""

    call: Call
    norm: Call | None
    activation: int
    others: list[nn.Module]
    end: Value


class _Fusing:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.times = graph.times_called()
        self.taken: set[nn.Module] = set()
        self.touching: dict[Value, list[Call]] = {}
        self.reading: dict[Value, list[Call]] = {}
        for call in graph.calls:
            for value in {*call.inputs, *call.outputs}:
                self.touching.setdefault(value, []).append(call)
            if call.single and len(call.inputs) == 1:
                self.reading.setdefault(call.inputs[0], []).append(call)

    def done(self) -> Replacements:
        """Return what replaces modules."""
        made = self._blocks()
        self.attentions = [call for call in self.graph.calls if self._is_attention(call)]
        starting: dict[Value, tuple[_Conv, FusedConv]] = {}
        ending: dict[Value, tuple[_Conv, FusedConv]] = {}
        for call in self.graph.calls:
            found = self._conv(call)
            if found is None:
                continue
            norm: Any = None if found.norm is None else found.norm.module
            module: Any = call.module
            conv = fused_conv(module, norm, activation=found.activation)
            made[call.module] = conv
            made |= {module: nn.Identity() for module in found.others}
            starting[call.inputs[0]] = ending[found.end] = found, conv
            if found.norm is not None:
                made[found.norm.module] = self._rest_of_norm(found)
        for call in self.attentions:
            before = self._neighbour(call, call.inputs[0], ending.get(call.inputs[0]))
            if before is not None:
                made[before[0].call.module] = nn.Identity()
                starting.pop(before[0].call.inputs[0], None)  # a convolution is part of one chain
            after = self._neighbour(call, call.outputs[0], starting.get(call.outputs[0]))
            if after is not None:
                made[after[0].call.module] = nn.Identity()
                ending.pop(after[0].end)
            made[call.module] = GatedChain(before and before[1], call.module, after and after[1])
        for call in self.attentions:
            chain, reader = made[call.module], starting.get(call.outputs[0])
            if isinstance(chain, GatedChain) and chain.after is None and reader is not None:
                chain.leaves_scale = reader[1].scales_input and self._alone(call.outputs[0], reader[0].call)
        return made

    def _blocks(self) -> dict[nn.Module, nn.Module]:
        """Return residual blocks; what their branches contain is taken."""
        made: dict[nn.Module, nn.Module] = {}
        blocks: list[Call] = []
        for call in self.graph.calls:
            if call is not self.graph.root and not any(block.within(call) for block in blocks):
                block = fused_block(call, self.graph, self.times)
                if block is not None:
                    made[call.module] = block
                    blocks.append(call)
                    kept = set(block.shortcut.modules())
                    self.taken |= {module for module in call.module.modules() if module not in kept}
        return made

    def _neighbour(
        self, attention: Call, value: Value, found: tuple[_Conv, FusedConv] | None
    ) -> tuple[_Conv, FusedConv] | None:
        """Return the convolution next to an attention layer if it is in the same module and nothing is between."""
        if found is None or attention.parent is None or not found[0].call.within(attention.parent):
            return None
        after = value in attention.outputs
        if after and not found[1].scales_input:
            return None
        return found if self._alone(value, found[0].call if after else attention) else None

    def _is_attention(self, call: Call) -> bool:
        return (
            self._is_once(call)
            and gate_from_means(call.module) is not None
            and untouched(*call.module.modules())
            and not (call.parent is not None and isinstance(call.parent.module, FusedBlock))
        )

    def _conv(self, call: Call) -> _Conv | None:
        """Return the convolution of a call with what it can take in. None for another or a watched module."""
        module = call.module
        if not self._is_once(call) or not untouched(module):
            return None
        if is_foldable(module):
            found = _Conv(call, None, 0, [], call.outputs[0])
            norm = self._next(found.end, is_norm)
            if norm is not None:
                act: Any = getattr(norm.module, "act", nn.Identity())
                found.norm, found.end = norm, norm.outputs[0]
                found.activation = activation_number(act) or 0
        else:
            return None
        if any(call.within(attention) for attention in self.attentions):
            return None
        if found.activation == 0 and self._rest_of_norm(found, plain=True):
            act_call = self._next(found.end, lambda m: bool(activation_number(m)))
            if act_call is not None:
                found.activation = activation_number(act_call.module) or 0
                found.end = act_call.outputs[0]
                found.others.append(act_call.module)
        return found

    def _rest_of_norm(self, found: _Conv, *, plain: bool = False) -> Any:
        """Return what stays in the norm's place: the identity, or an activation that the convolution can't take."""
        act: nn.Module | None = None if found.norm is None else getattr(found.norm.module, "act", None)
        known = act is None or activation_number(act) is not None
        if plain:
            return known
        return nn.Identity() if known else act

    def _next(self, value: Value, wanted: Any) -> Call | None:
        """Return the call of a wanted module that alone reads a value, if nothing watches the value."""
        call = next((c for c in self.reading.get(value, ()) if wanted(c.module)), None)
        if call is None or not self._is_once(call) or not untouched(*call.module.modules()):
            return None
        return call if self._alone(value, call) else None

    def _alone(self, value: Value, reader: Call) -> bool:
        """Whether only a call reads a value, and no hook of a module around it sees the value."""
        return (
            value not in self.graph.root.outputs
            and all(user.call.within(reader) for user in value.users)
            and all(unwatched(c.module) and "forward" not in c.module.__dict__ for c in self.touching.get(value, ()))
        )

    def _is_once(self, call: Call) -> bool:
        return (
            call.single
            and len(call.inputs) == 1
            and self.times[call.module] == 1
            and call.module not in self.taken
            and call.path not in self.graph.unhooked
            and "forward" not in call.module.__dict__
        )


def replace(model: nn.Module, made: Replacements) -> nn.Module:
    """Put replacements in their places, under every name, and return the network."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and child in made:
                module._modules[name] = made[child]
    return made.get(model, model)
