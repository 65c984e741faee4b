"""Channel attention between convolutions, in an optimized network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from senet.fusion.layers import FusedConv
from senet.gates.excitation import gate_from_means
from senet.nn.block import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.optimized import Optimized
from senet.nn.squeeze import mean
from senet.ops import GATE_NUMBERS, choose
from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.excitation import Excitation, excite, rescale

__all__ = ["ACTIVATION_NAMES", "GatedChain", "activation_of"]

ACTIVATION_NAMES: Final[Mapping[str, str]] = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "SiLU": "silu",
    "Swish": "silu",
    "Hardswish": "hard_swish",
    "HardSwish": "hard_swish",
    "GELU": "gelu",
    "Identity": "identity",
}
"""Class of an activation of torch or timm, to its name in `ACTIVATIONS`."""

_GATES: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "Sigmoid": torch.sigmoid,
    "Hardsigmoid": nn.functional.hardsigmoid,
    "HardSigmoid": nn.functional.hardsigmoid,
}

_LAYERS: Final[Mapping[str, tuple[str, str, str, str]]] = {
    "timm.layers.squeeze_excite.SEModule": ("fc1", "act", "fc2", "gate"),
    "timm.models._efficientnet_blocks.SqueezeExcite": ("conv_reduce", "act1", "conv_expand", "gate"),
    "torchvision.ops.misc.SqueezeExcitation": ("fc1", "activation", "fc2", "scale_activation"),
}
"""Other libraries' attention layers, to the names of first layer, activation, second layer and gate function."""


def activation_of(module: nn.Module) -> int | None:
    """Return the number of an activation in `ACTIVATIONS`. None for other modules."""
    kind = type(module)
    if kind.__module__.partition(".")[0] not in ("torch", "timm") or getattr(module, "approximate", "none") != "none":
        return None
    name = ACTIVATION_NAMES.get(kind.__name__)
    return None if name is None else ACTIVATIONS.index(name)


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
        watched = not untouched(*attention.modules(), *(m for m in (before, after) if m is not None))
        if watched or x.ndim != 4 or not choose().library or torch.compiler.is_compiling() or torch.jit.is_tracing():
            x = attention(x if before is None else before(x))
            return x if after is None else after(x)
        means: Tensor | None = None
        if before is not None:
            x, means = before.with_means(x)
        layers = excitation(attention)
        if layers is None:
            gate_of = gate_from_means(attention)
            assert gate_of is not None
            gate = gate_of((mean(x) if means is None else means)[:, :, None, None])
            return x * gate if after is None else after.of_scaled(x, gate.flatten(1))
        if after is not None and after.scales_input:
            return after.of_scaled(x, excite(x, layers, means))
        x = rescale(x, layers, means, in_place=before is not None)
        return x if after is None else after(x)


def excitation(layer: Any) -> Excitation | None:
    """Return the layers of the gate of Squeeze-and-Excitation. None if it has another form."""
    if type(layer) is SqueezeExcite:
        number = GATE_NUMBERS.get(layer.activate)
        fc1, fc2 = layer.fc1, layer.fc2
        if number is None or layer.squeeze is not mean or type(fc1) is not nn.Linear or type(fc2) is not nn.Linear:
            return None
        return Excitation(fc1.weight, fc1.bias, fc2.weight, fc2.bias, ACTIVATIONS.index("relu"), number)
    kind = type(layer)
    names = _LAYERS.get(f"{kind.__module__}.{kind.__qualname__}")
    if names is None or type(getattr(layer, "bn", None)) not in (type(None), nn.Identity):
        return None
    first, act, second, gate = (getattr(layer, name) for name in names)
    activation, function = activation_of(act), _GATES.get(type(gate).__name__)
    if activation is None or function is None or not _pointwise(first) or not _pointwise(second):
        return None
    return Excitation(first.weight, first.bias, second.weight, second.bias, activation, GATE_NUMBERS[function])


def _pointwise(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.groups == 1
