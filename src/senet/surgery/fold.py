"""Fold a constant factor a channel into the norms or convolutions that the map comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from senet.graph.flow import TRANSPARENT
from senet.graph.trace import NORMS, Call, Value

__all__ = ["Target", "fold", "targets"]

# f(s * x) = s * f(x) for s > 0: the factor may as well come before them.
HOMOGENEOUS: Final = (
    *TRANSPARENT, "relu", "leaky_relu", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d",
    "max_pool2d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "adaptive_max_pool2d",
)  # fmt: skip
LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Target:
    """A layer that takes the factors of the channels from `start` on, as many as it has.

    Attributes:
        path: Of the module.
        module: With a weight, and perhaps a bias, whose first dimension counts the channels.
        start: First of the channels.
    """

    path: str
    module: nn.Module
    start: int


def targets(layer: Call, times: Mapping[nn.Module, int]) -> list[Target] | None:
    """The layers into which the factors of an attention layer's call can go exactly; None if there are none.

    Args:
        layer: The call.
        times: How often each module of the network runs; what runs twice serves two maps.
    """
    [value] = layer.inputs
    if times[layer.module] != 1 or any(not user.call.within(layer) for user in value.users):
        return None  # somebody else needs the map as it is
    return _behind(value, 0, times)


def _behind(value: Value, start: int, times: Mapping[nn.Module, int]) -> list[Target] | None:
    module, own = value.call.module, value.conv_rank > 0 or any(n in value.op for n in NORMS)
    if own:
        plain = isinstance(module, LAYERS) and not parametrize.is_parametrized(module) and times[module] == 1
        fits = plain and isinstance(module.weight, Tensor) and len(module.weight) == value.channels
        return [Target(value.call.path, module, start)] if fits else None
    if value.op == "cat":
        found: list[Target] = []
        for source in value.inputs:
            behind = _behind(source, start, times) if _alone(source, value) else None
            if behind is None:
                return None
            found += behind
            start += source.channels
        return found
    if value.op in HOMOGENEOUS or (value.op == "mul" and len(value.inputs) == 1):
        [source] = set(value.inputs)
        same = source.shape[:2] == value.shape[:2] and source.channel_dim == 1
        return _behind(source, start, times) if same and _alone(source, value) else None
    return None


def _alone(source: Value, user: Value) -> bool:
    return all(other is user for other in source.users)


def fold(found: Sequence[Target], factors: Tensor) -> None:
    """Multiply the layers' weights and biases, in place; computed in float64."""
    with torch.no_grad():
        for target in found:
            for parameter in (target.module.weight, target.module.bias):
                if parameter is not None:
                    assert isinstance(parameter, Tensor)
                    piece = factors[target.start : target.start + len(parameter)].to(parameter.device, torch.float64)
                    piece = piece.reshape(-1, *(1 for _ in parameter.shape[1:]))
                    parameter.copy_((parameter.double() * piece).to(parameter.dtype))
