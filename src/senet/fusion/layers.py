"""The residual blocks of an optimized network, in few passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from senet.fusion.convolutions import FusedConv
from senet.fusion.unchanged import Unchanged
from senet.gates.excitation import excitation
from senet.nn import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized
from senet.nn.precomputed import PrecomputedGate
from senet.ops.excitation import Excitation
from senet.ops.inference import is_traced

__all__ = ["FusedBlock", "FusedBranch", "FusedConv"]


@final
class FusedBranch(Optimized):
    """A residual branch of fused convolutions.

    Args:
        body: All but the last convolution.
        last: The last convolution.
    """

    def __init__(self, body: nn.Module, last: FusedConv) -> None:
        super().__init__()
        self.body = body
        self.last = last

    def forward(self, x: Tensor, inner: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        x = self.body(x)
        return self.last(inner(x) if inner else x)


class _Fused(NamedTuple):
    """How a block with attention runs in few passes.

    Attributes:
        first: Convolutions that run as they are.
        inner: The convolution whose output gives the gate, before the last one. None if the last one does itself.
        last: The last convolution.
        layers: The layers of the gate.
    """

    first: Sequence[nn.Module]
    inner: FusedConv | None
    last: FusedConv
    layers: Excitation


@final
class FusedBlock(Optimized):
    """A residual block, `relu(shortcut(x) + se(branch(x)))`, with few passes over the feature maps.

    If the branch ends in a 1x1 convolution, the gate is computed before it (`PrecomputedGate`), and scale, sum and ReLU
    are fused into it. Otherwise the gate is computed from the branch's output. Layers with hooks run one by one.

    Args:
        branch: The branch.
        shortcut: The identity or a projection.
        se: The attention, or None in a plain network. A `SqueezeExcite` squeezes by the mean.
    """

    def __init__(self, branch: FusedBranch, shortcut: nn.Module, se: nn.Module | None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.se = se
        if isinstance(se, SqueezeExcite) and excitation(se) is not None and branch.last.geometry.pointwise:
            self.se = PrecomputedGate(se, branch.last.dense_weight, branch.last.bias)
        self._fused = Unchanged[_Fused]()

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut(x)
        if self.se is None and untouched(self.branch):
            return self.branch.last(self.branch.body(x), shortcut)
        fused = None if is_traced() else self._fused.get() or self._prepared()
        if fused is None:
            return self._one_by_one(x, shortcut)
        for conv in fused.first:
            x = conv(x)
        if fused.inner is None:
            return fused.last.self_gated(x, fused.layers, shortcut)
        h, gate = fused.inner.with_gate(x, fused.layers)
        return fused.last.rescaled(h, gate, shortcut)

    def _prepared(self) -> _Fused | None:
        """Return how the block runs in few passes. None if one of its layers has hooks, or the gate is unknown."""
        branch, se = self.branch, self.se
        if se is None or not isinstance(branch.body, nn.Sequential):
            return None
        convs = list(branch.body)
        early = isinstance(se, PrecomputedGate)
        called = [branch, branch.body, branch.last, *se.modules(), *(convs[-1:] if early else ())]
        layers = excitation(se) if untouched(*called) else None
        if layers is None or (early and not (convs and isinstance(convs[-1], FusedConv))):
            return None
        inner: Any = convs.pop() if early else None
        fused = _Fused(convs, inner, branch.last, layers)
        self._fused = Unchanged(fused, called)
        return fused

    def _one_by_one(self, x: Tensor, shortcut: Tensor) -> Tensor:
        inner: list[Tensor] = []

        def capture(h: Tensor) -> Tensor:
            inner.append(h)
            return h

        y = self.branch(x, capture)
        if isinstance(self.se, PrecomputedGate):
            return torch.relu(self.se(inner[0]) * y + shortcut)
        return torch.relu((y if self.se is None else self.se(y)) + shortcut)
