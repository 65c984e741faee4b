"""Find residual blocks of any network that can run as a `FusedBlock`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.fusion.attention import as_squeeze_excite
from senet.fusion.convolutions import FusedConv, fused_conv
from senet.fusion.layers import FusedBlock, FusedBranch
from senet.gates.excitation import gate_from_means
from senet.graph.values import Call, Graph, Value
from senet.nn.activations import is_batch_norm
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized

__all__ = ["fused_block", "is_foldable", "is_norm"]

_ACTIVATIONS: Final[Mapping[str, int]] = {"relu": 1, "silu": 3, "hardswish": 4}
"""Operations to the numbers in `ACTIVATIONS`."""


def is_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm with running statistics, of torch or timm, whose activation is known or separate."""
    norm: Any = module
    drop = type(getattr(norm, "drop", nn.Identity()))
    tracked = is_batch_norm(norm) and norm.running_mean is not None and norm.running_var is not None
    return tracked and drop is nn.Identity


def is_foldable(module: nn.Module) -> bool:
    """Whether it is a convolution that can take in a norm."""
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def fused_block(call: Call, graph: Graph, times: Mapping[nn.Module, int]) -> FusedBlock | None:
    """Return the `FusedBlock` of a call that computes `relu(shortcut(x) + attention(branch(x)))`. None for others.

    The branch is a chain of convolutions, each with a norm, and activations between them. The result is compared with
    the module on a random feature map.
    """
    module = call.module
    if isinstance(module, Optimized) or not call.single or len(call.inputs) != 1 or times[module] != 1:
        return None
    if not untouched(*module.modules()) or any(isinstance(m, Optimized) for m in module.modules()):
        return None
    end = call.outputs[0]
    if end.op != "relu" or not end.call.within(call) or len(end.inputs) != 1:
        return None
    total = end.inputs[0]
    if total.op != "add" or not total.call.within(call) or len(total.inputs) != 2 or len(total.users) != 1:
        return None
    inside = _Inside(call, graph, times)
    for branch_end, shortcut_end in (total.inputs, total.inputs[::-1]):
        branch, shortcut = inside.branch(branch_end), inside.shortcut(shortcut_end)
        if branch is not None and shortcut is not None:
            made = FusedBlock(branch[0], shortcut, branch[1]).eval().requires_grad_(False)
            return made if _same(made, module, call.inputs[0].shape) else None
    return None


class _Inside:
    """What a call computes between its input and its output."""

    def __init__(self, call: Call, graph: Graph, times: Mapping[nn.Module, int]) -> None:
        self.call, self.times = call, times
        self.start = call.inputs[0]
        self.returned: dict[Value, list[Call]] = {}
        for inner in graph.calls:
            if inner is not call and inner.within(call) and inner.single and len(inner.inputs) == 1:
                self.returned.setdefault(inner.outputs[0], []).append(inner)  # the innermost first

    def shortcut(self, value: Value) -> nn.Module | None:
        """Return the module that computes the shortcut from the block's input."""
        if value is self.start:
            return nn.Identity()
        found = [c for c in self.returned.get(value, ()) if c.inputs[0] is self.start and self.times[c.module] == 1]
        return found[-1].module if found and len(value.users) == 1 else None

    def branch(self, value: Value) -> tuple[FusedBranch, nn.Module | None] | None:
        """Return the branch of convolutions that ends in a value, and the attention after it."""
        attention: nn.Module | None = None
        convs: list[FusedConv] = []
        call = self._made(value, lambda m: gate_from_means(m) is not None)
        if call is not None and len(value.users) == 1:
            attention, value = as_squeeze_excite(call.module), call.inputs[0]
            if any(not user.call.within(call) for user in value.users):
                return None
        elif len(value.users) != 1:
            return None
        while value is not self.start:
            activation = _ACTIVATIONS.get(value.op, 0) if value.call.within(self.call) else 0
            if activation:
                if not convs or len(value.users) != 1:
                    return None
                value = value.inputs[0]
            norm = self._made(value, is_norm)
            if norm is None or isinstance(getattr(norm.module, "act", None), nn.Module):
                return None
            conv = self._made(norm.inputs[0], is_foldable)
            alone = (attention is not None and not convs) or len(value.users) == 1
            if conv is None or not alone or len(norm.inputs[0].users) != 1:
                return None
            layers: Any = (conv.module, norm.module)
            convs.insert(0, fused_conv(*layers, activation=activation))
            value = conv.inputs[0]
        return (FusedBranch(nn.Sequential(*convs[:-1]), convs[-1]), attention) if convs else None

    def _made(self, value: Value, wanted: Any) -> Call | None:
        """Return the call of a wanted module that made a value."""
        found = [c for c in self.returned.get(value, ()) if wanted(c.module) and self.times[c.module] == 1]
        return found[0] if len(found) == 1 else None


@torch.no_grad()
def _same(made: nn.Module, module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether both compute the same of a random feature map."""
    like = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *shape[1:], generator=generator).to(like)
    expected, found = module(x.clone()), made(x.clone())
    limit = 0.1 if like.dtype in (torch.bfloat16, torch.float16) else 1e-3
    largest: Tensor = expected.abs().max()
    return expected.shape == found.shape and bool((found - expected).abs().max() <= limit * largest)
