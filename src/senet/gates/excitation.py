"""The gate of an attention layer from the means of its feature map, whoever wrote the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from senet.nn.epilogue import untouched
from senet.nn.squeeze import mean

__all__ = ["gate_from_means"]

GateOf = Callable[[Any, Tensor], Tensor]


def _linear(layer: nn.Module, z: Tensor) -> Tensor:
    """A 1x1 convolution of means, (N, C, 1, 1), as a matrix product: on CPUs in a third of the time."""
    if type(layer) is not nn.Conv2d or layer.weight.shape[2:] != (1, 1) or layer.groups != 1 or not untouched(layer):
        return layer(z)  # type: ignore[no-any-return]
    return F.linear(z.flatten(1), layer.weight.flatten(1), layer.bias)[:, :, None, None]


def _se_module(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(_linear(layer.fc2, layer.act(layer.bn(_linear(layer.fc1, z)))))  # type: ignore[no-any-return]


def _squeeze_excite(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(_linear(layer.conv_expand, layer.act1(_linear(layer.conv_reduce, z))))  # type: ignore[no-any-return]


def _effective(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(_linear(layer.fc, z))  # type: ignore[no-any-return]


def _eca(layer: Any, z: Tensor) -> Tensor:
    y = layer.conv(z.flatten(2).movedim(1, 2))
    if layer.conv2 is not None:
        y = layer.conv2(layer.act(y))
    return layer.gate(y).reshape(z.shape)  # type: ignore[no-any-return]


def _torchvision(layer: Any, z: Tensor) -> Tensor:
    y = _linear(layer.fc2, layer.activation(_linear(layer.fc1, layer.avgpool(z))))
    return layer.scale_activation(y)  # type: ignore[no-any-return]


def _own(layer: Any, z: Tensor) -> Tensor:
    return layer.gate(z)  # type: ignore[no-any-return]


_GATES: Final[Mapping[str, GateOf]] = {
    "senet.nn.block.SqueezeExcite": _own,
    "senet.nn.channel.EffectiveSqueezeExcite": _own,
    "senet.nn.channel.EfficientChannelAttention": _own,
    "timm.layers.squeeze_excite.SEModule": _se_module,
    "timm.models._efficientnet_blocks.SqueezeExcite": _squeeze_excite,
    "timm.layers.squeeze_excite.EffectiveSEModule": _effective,
    "timm.layers.eca.EcaModule": _eca,
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
    return _Bound(layer, function)


class _Bound:
    """A gate's function with its layer. A class, so that a network that holds one can be copied and pickled."""

    def __init__(self, layer: nn.Module, function: GateOf) -> None:
        self.layer, self.function = layer, function

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(self.layer, z)
