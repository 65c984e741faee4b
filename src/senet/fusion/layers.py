"""The residual blocks of an optimized network, in few passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from senet.fusion.convolutions import FusedConv, PackedConv, TiledConv, rescaled
from senet.gates.excitation import excitation
from senet.nn import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized
from senet.nn.precomputed import PrecomputedGate

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

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        shortcut = self.shortcut(x)
        if not untouched(self.branch):
            return self._one_by_one(x, shortcut)
        h = self.branch.body(x)
        last, se = self.branch.last, self.se
        if se is None:
            return last(h, shortcut)
        layers = excitation(se) if untouched(last, se) else None
        if isinstance(se, PrecomputedGate):
            if layers is not None and isinstance(last, PackedConv | TiledConv):
                return last.gated(h, layers, shortcut)
            y, gate = last(h), se(h)
            return rescaled(y, gate.flatten(1), shortcut) if untouched(last) else torch.relu(y * gate + shortcut)
        if layers is None or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return torch.relu(se(last(h)) + shortcut)
        return last.self_gated(h, layers, shortcut)

    def _one_by_one(self, x: Tensor, shortcut: Tensor) -> Tensor:
        inner: list[Tensor] = []

        def capture(h: Tensor) -> Tensor:
            inner.append(h)
            return h

        y = self.branch(x, capture)
        if isinstance(self.se, PrecomputedGate):
            return torch.relu(self.se(inner[0]) * y + shortcut)
        return torch.relu((y if self.se is None else self.se(y)) + shortcut)
