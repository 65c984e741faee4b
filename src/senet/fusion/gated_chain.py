"""Channel attention between convolutions, in an optimized network."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from senet.fusion.convolutions import FusedConv
from senet.gates.excitation import excitation, gate_from_means
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized
from senet.nn.squeeze import mean
from senet.ops import choose
from senet.ops.excitation import excite, rescale
from senet.ops.inference import is_traced

__all__ = ["GatedChain"]


@final
class GatedChain(Optimized):
    """`after(gate * h)` with `h = before(x)`: an attention layer with the convolutions around it.

    The convolution before it adds up the means while it writes h. The convolution after it scales h while it reads it.
    Without one after it, h is scaled in place. Layers with hooks run one by one.

    Args:
        before: The convolution before the attention layer, or None.
        attention: A layer that computes `x * gate(mean(x))`, with `gate_from_means`.
        after: The convolution after it, or None.
    """

    def __init__(self, before: FusedConv | None, attention: nn.Module, after: FusedConv | None) -> None:
        super().__init__()
        self.before, self.attention, self.after = before, attention, after

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        before, attention, after = self.before, self.attention, self.after
        layers, gate_of = excitation(attention), gate_from_means(attention)
        parts = (attention, *attention._modules.values(), before, after)
        plain = x.ndim == 4 and choose().library is not None and not is_traced()
        if gate_of is None or not plain or not untouched(*(m for m in parts if m is not None)):
            x = attention(x if before is None else before(x))
            return x if after is None else after(x)
        if layers is None:
            x, means = (x, None) if before is None else before.with_means(x)
            gate = gate_of((mean(x) if means is None else means)[:, :, None, None])
            return x * gate if after is None else after.of_scaled(x, gate.flatten(1))
        if after is not None:
            x, gate = (x, excite(x, layers)) if before is None else before.with_gate(x, layers)
            return after.of_scaled(x, gate)
        return rescale(x, layers) if before is None else before.self_gated(x, layers, None)
