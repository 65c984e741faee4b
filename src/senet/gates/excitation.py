"""The gate of an attention layer from the means of its feature map, whoever wrote the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from senet.nn.activations import activation_number, gate_number
from senet.nn.block import SqueezeExcite
from senet.nn.epilogue import untouched
from senet.nn.precomputed import PrecomputedGate
from senet.nn.squeeze import mean
from senet.ops import GATE_NUMBERS
from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.excitation import Excitation

__all__ = ["excitation", "gate_from_means"]

GateOf = Callable[[Any, Tensor], Tensor]


def _linear(layer: Any, z: Tensor) -> Tensor:
    """A 1x1 convolution of means, (N, C, 1, 1), as a matrix product: on CPUs in a third of the time."""
    if not _is_pointwise(layer):
        return layer(z)
    return F.linear(z.flatten(1), layer.weight.flatten(1), layer.bias)[:, :, None, None]


def _is_pointwise(layer: Any) -> bool:
    """Whether it is a plain 1x1 convolution, which of (N, C, 1, 1) is a linear layer."""
    plain = type(layer) is nn.Conv2d and (layer.stride, layer.padding, layer.groups) == ((1, 1), (0, 0), 1)
    return plain and layer.weight.shape[2:] == (1, 1) and untouched(layer)


def _se_module(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(_linear(layer.fc2, layer.act(layer.bn(_linear(layer.fc1, z)))))


def _squeeze_excite(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(_linear(layer.conv_expand, layer.act1(_linear(layer.conv_reduce, z))))


def _effective(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(_linear(layer.fc, z))


def _eca(layer: Any, z: Tensor) -> Tensor:
    y = layer.conv(z.flatten(2).movedim(1, 2))
    if layer.conv2 is not None:
        y = layer.conv2(layer.act(y))
    return layer.gate(y).reshape(z.shape)


def _circular_eca(layer: Any, z: Tensor) -> Tensor:
    around = F.pad(z.flatten(2).movedim(1, 2), (layer.padding, layer.padding), mode="circular")
    return layer.gate(layer.conv(around)).reshape(z.shape)


def _torchvision(layer: Any, z: Tensor) -> Tensor:
    y = _linear(layer.fc2, layer.activation(_linear(layer.fc1, layer.avgpool(z))))
    return layer.scale_activation(y)


def _own(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(z)


_GATES: Final[Mapping[str, GateOf]] = {
    "senet.nn.block.SqueezeExcite": _own,
    "senet.nn.channel.EffectiveSqueezeExcite": _own,
    "senet.nn.channel.EfficientChannelAttention": _own,
    "timm.layers.squeeze_excite.SEModule": _se_module,
    "timm.models._efficientnet_blocks.SqueezeExcite": _squeeze_excite,
    "timm.layers.squeeze_excite.EffectiveSEModule": _effective,
    "timm.layers.eca.EcaModule": _eca,
    "timm.layers.eca.CecaModule": _circular_eca,
    "torchvision.ops.misc.SqueezeExcitation": _torchvision,
}
"""Layers that compute `x * gate(mean(x))`, to their gate. A subclass may compute something else, so names are exact."""


def gate_from_means(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the function from means to gate, both (N, C, 1, 1), of a layer that computes `x * gate(mean(x))`.

    Args:
        layer: This package's SE, ECA or effective SE, timm's, or torchvision's `SqueezeExcitation`.

    Returns:
        None if the layer isn't of that form, as with spatial attention or a maximum in the squeeze.
    """
    kind = type(layer)
    function = _GATES.get(f"{kind.__module__}.{kind.__qualname__}")
    if function is None or getattr(layer, "squeeze", mean) is not mean or getattr(layer, "add_maxpool", False):
        return None
    return partial(function, layer)


# First layer, modules between the layers, second layer, and gate.
_TWO_LAYERS: Final[Mapping[str, tuple[str, tuple[str, ...], str, str]]] = {
    "timm.layers.squeeze_excite.SEModule": ("fc1", ("bn", "act"), "fc2", "gate"),
    "timm.models._efficientnet_blocks.SqueezeExcite": ("conv_reduce", ("act1",), "conv_expand", "gate"),
    "torchvision.ops.misc.SqueezeExcitation": ("fc1", ("activation",), "fc2", "scale_activation"),
}


def excitation(layer: Any) -> Excitation | None:
    """Return the two layers of a gate and their functions.

    Args:
        layer: A layer that `gate_from_means` knows, or a `PrecomputedGate`.

    Returns:
        None if the gate is computed otherwise, or something in it has hooks or is not known.
    """
    kind = type(layer)
    if kind is SqueezeExcite or kind is PrecomputedGate:
        return _own_excitation(layer)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in _TWO_LAYERS:
        return None
    of_first, inner, of_second, of_gate = _TWO_LAYERS[name]
    first, second, gated = (getattr(layer, n) for n in (of_first, of_second, of_gate))
    modules = [getattr(layer, n) for n in inner if type(getattr(layer, n)) is not nn.Identity]
    between, gate = activation_number(modules[0]) if len(modules) == 1 else None, gate_number(gated)
    known = _is_pointwise(first) and _is_pointwise(second) and untouched(*modules, gated)
    if not known or between is None or gate is None:
        return None
    return Excitation(first.weight.flatten(1), first.bias, second.weight.flatten(1), second.bias, between, gate)


def _own_excitation(layer: SqueezeExcite | PrecomputedGate) -> Excitation | None:
    first, second, gate = layer.fc1, layer.fc2, GATE_NUMBERS.get(layer.activate)
    if gate is None or type(first) is not nn.Linear or type(second) is not nn.Linear or not untouched(first, second):
        return None
    if type(layer) is SqueezeExcite and (layer.squeeze is not mean or "gate" in layer.__dict__):
        return None
    a, b = first._parameters, second._parameters  # without the slower `Module.__getattr__`
    w1, w2 = a["weight"], b["weight"]
    return None if w1 is None or w2 is None else Excitation(w1, a["bias"], w2, b["bias"], _RELU, gate)


_RELU: Final = ACTIVATIONS.index("relu")
