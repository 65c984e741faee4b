"""Channel attention between convolutions, in an optimized network."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

from torch import Tensor, nn

from senet.fusion.convolutions import FusedConv
from senet.fusion.lazy import scaled
from senet.fusion.unchanged import Unchanged
from senet.gates.excitation import excitation, gate_from_means
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized
from senet.nn.squeeze import mean
from senet.ops import choose
from senet.ops.excitation import Excitation, excite, rescale
from senet.ops.inference import is_traced

__all__ = ["GatedChain"]


@final
class GatedChain(Optimized):
    """`after(gate * h)` with `h = before(x)`: an attention layer with the convolutions around it.

    The convolution before it adds up the means while it writes h. The convolution after it scales h while it reads it.
    Without one after it, h is scaled in place, or left to a convolution of another module that can scale its input.
    Layers with hooks run one by one.

    Attributes:
        leaves_scale: Whether such a convolution alone reads the result, so that it may be a `ScaledFeatureMap`.

    Args:
        before: The convolution before the attention layer, or None.
        attention: A layer that computes `x * gate(mean(x))`, with `gate_from_means`.
        after: The convolution after it, or None.
    """

    def __init__(self, before: FusedConv | None, attention: nn.Module, after: FusedConv | None) -> None:
        super().__init__()
        self.before, self.attention, self.after = before, attention, after
        self.leaves_scale = False
        self._fused = Unchanged[_Fused]()

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        fused = None if x.ndim != 4 or is_traced() else self._fused.get() or self._prepared()
        before, after = (self.before, self.after) if fused is None else fused[:2]
        if fused is None:
            x = self.attention(x if before is None else before(x))
            return x if after is None else after(x)
        if fused.layers is None:
            x, means = (x, None) if before is None else before.with_means(x)
            gate = fused.gate_of((mean(x) if means is None else means)[:, :, None, None])
            if after is None and not self.leaves_scale:
                return x * gate
            return (scaled if after is None else after.of_scaled)(x, gate.flatten(1))
        if after is not None or self.leaves_scale:
            x, gate = (x, excite(x, fused.layers)) if before is None else before.with_gate(x, fused.layers)
            return (scaled if after is None else after.of_scaled)(x, gate)
        return rescale(x, fused.layers) if before is None else before.self_gated(x, fused.layers, None)

    def _prepared(self) -> _Fused | None:
        """Return how the chain runs in few passes. None if one of its layers has hooks, or there is no kernel."""
        called = [m for m in (self.before, *self.attention.modules(), self.after) if m is not None]
        gate_of = gate_from_means(self.attention) if untouched(*called) else None
        if gate_of is None or choose().library is None:
            return None
        fused = _Fused(self.before, self.after, excitation(self.attention), gate_of)
        self._fused = Unchanged(fused, called)
        return fused


class _Fused(NamedTuple):
    """The convolutions around the attention, and the two layers of its gate, or its function from means to gate."""

    before: FusedConv | None
    after: FusedConv | None
    layers: Excitation | None
    gate_of: Callable[[Tensor], Tensor]
