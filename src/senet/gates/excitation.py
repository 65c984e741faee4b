"""The gate of an attention layer from the means of its feature map, whoever wrote the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor, nn

from senet.nn.attention import Attention
from senet.nn.block import SqueezeExcite
from senet.nn.channel import EffectiveSqueezeExcite, EfficientChannelAttention
from senet.nn.squeeze import mean

__all__ = ["gate_from_means"]

GateOf = Callable[[Any, Tensor], Tensor]


def _se_module(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(layer.fc2(layer.act(layer.bn(layer.fc1(z)))))


def _squeeze_excite(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(layer.conv_expand(layer.act1(layer.conv_reduce(z))))


def _effective(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(layer.fc(z))


def _eca(layer: Any, z: Tensor) -> Tensor:
    y = layer.conv(z.flatten(2).movedim(1, 2))
    if layer.conv2 is not None:
        y = layer.conv2(layer.act(y))
    return layer.gate(y).reshape(z.shape)


def _torchvision(layer: Any, z: Tensor) -> Tensor:
    return layer._scale(z)


def _own(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(z)


_OTHERS: Final[Mapping[str, GateOf]] = {
    "timm.layers.squeeze_excite.SEModule": _se_module,
    "timm.models._efficientnet_blocks.SqueezeExcite": _squeeze_excite,
    "timm.layers.squeeze_excite.EffectiveSEModule": _effective,
    "timm.layers.eca.EcaModule": _eca,
    "torchvision.ops.misc.SqueezeExcitation": _torchvision,
}
"""Other libraries' layers that compute `x * gate(mean(x))`, to their gate."""


def gate_from_means(layer: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the function from means to gate, both (N, C, 1, 1), of a layer that computes `x * gate(mean(x))`.

    Args:
        layer: This package's SE, ECA or effective SE, timm's, or torchvision's `SqueezeExcitation`.

    Returns:
        None if the layer isn't of that form, as with spatial attention or a maximum in the squeeze.
    """
    kind = type(layer)
    if isinstance(layer, Attention):
        plain = kind in (EfficientChannelAttention, EffectiveSqueezeExcite)
        known = plain or (kind is SqueezeExcite and layer.squeeze is mean)
        return _Bound(layer, _own) if known else None
    function = _OTHERS.get(f"{kind.__module__}.{kind.__qualname__}")
    if function is None or getattr(layer, "add_maxpool", False):
        return None
    return _Bound(layer, function)


class _Bound:
    """A gate's function with its layer. A class, so that a network that holds one can be copied and pickled."""

    def __init__(self, layer: nn.Module, function: GateOf) -> None:
        self.layer, self.function = layer, function

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(self.layer, z)
