"""The residual blocks of an optimized network, in few passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from senet.fusion.convolutions import FusedConv
from senet.gates.excitation import excitation
from senet.nn import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized
from senet.nn.precomputed import PrecomputedGate
from senet.ops.excitation import Excitation, excite
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

    def with_gate(self, x: Tensor, layers: Excitation) -> tuple[Tensor, Tensor]:
        """Return the input of the last convolution, and the gate that the layers compute from its means, (N, G)."""
        body = self.body
        convs = list(body._modules.values())
        inner = convs[-1] if convs else None
        if isinstance(inner, FusedConv) and untouched(body, inner):
            for conv in convs[:-1]:
                x = conv(x)
            return inner.with_gate(x, layers)
        x = body(x)
        return x, excite(x, layers)


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
        last, se = self.branch.last, self.se
        if se is None:
            return last(self.branch.body(x), shortcut)
        layers = excitation(se) if untouched(last, se) and not is_traced() else None
        if layers is None:
            return self._one_by_one(x, shortcut)
        if not isinstance(se, PrecomputedGate):
            return last.self_gated(self.branch.body(x), layers, shortcut)
        h, gate = self.branch.with_gate(x, layers)
        return last.rescaled(h, gate, shortcut)

    def _one_by_one(self, x: Tensor, shortcut: Tensor) -> Tensor:
        inner: list[Tensor] = []

        def capture(h: Tensor) -> Tensor:
            inner.append(h)
            return h

        y = self.branch(x, capture)
        if isinstance(self.se, PrecomputedGate):
            return torch.relu(self.se(inner[0]) * y + shortcut)
        return torch.relu((y if self.se is None else self.se(y)) + shortcut)
