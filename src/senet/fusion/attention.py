"""Activations and attention layers of several libraries, as the compiled kernel takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from senet.nn.block import SqueezeExcite
from senet.nn.squeeze import mean
from senet.ops import GATE_FUNCTIONS, GATE_NUMBERS
from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.excitation import Excitation

__all__ = ["activation_of", "as_squeeze_excite", "excitation"]

_ACTIVATIONS: Final[Mapping[str, str]] = {
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
    name = _ACTIVATIONS.get(kind.__name__)
    return None if name is None else ACTIVATIONS.index(name)


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


def as_squeeze_excite(layer: nn.Module) -> nn.Module:
    """Return the same attention as this package's `SqueezeExcite` where it has this form, else the layer itself."""
    found = None if isinstance(layer, SqueezeExcite) else excitation(layer)
    if found is None or found.activation != ACTIVATIONS.index("relu") or (found.b1 is None) != (found.b2 is None):
        return layer
    hidden, channels = found.w1.shape[:2]
    made = SqueezeExcite(channels, hidden_channels=hidden, bias=found.b1 is not None).to(found.w1)
    made.activate = GATE_FUNCTIONS[found.gate]
    for fc, weight, bias in ((made.fc1, found.w1, found.b1), (made.fc2, found.w2, found.b2)):
        fc.weight = nn.Parameter(weight.detach().flatten(1).clone(), requires_grad=False)
        if bias is not None:
            fc.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return made.eval()


def _pointwise(layer: nn.Module) -> bool:
    return type(layer) is nn.Conv2d and layer.kernel_size == (1, 1) and layer.groups == 1
