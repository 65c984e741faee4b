"""Fold a constant factor per channel into the norms or convolutions before it, or into the convolution after it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from senet.graph.flow import TRANSPARENT
from senet.graph.values import NORMS, Call, Graph, Value
from senet.nn.precision import in_float64
from senet.surgery.insertion import side_of
from senet.surgery.parameter_use import ParameterUse

__all__ = ["Plan", "Planner", "Target", "fold"]

# f(s * x) = s * f(x) for any s, so the factor can come before them.
LINEAR: Final = (
    *TRANSPARENT, "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
)  # fmt: skip
# For s >= 0 only. For s < 0, max(0, s * x) is s * min(0, x).
RECTIFIERS: Final = ("relu", "leaky_relu")
# For s > 0 only. For s = 0 all positions are equal, and the index of the maximum changes.
MAX_POOLS: Final = (
    "max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
)  # fmt: skip
LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Target:
    """A layer that takes the factors of consecutive channels.

    Attributes:
        path: Path of the module.
        module: A module with a weight and possibly a bias.
        start: The first of the channels.
        inputs: Whether they are the channels that the module reads. Else they are those of its output, which the first
            dimension of its weight counts.
    """

    path: str
    module: nn.Module
    start: int
    inputs: bool = False


@dataclass(frozen=True)
class Plan:
    """Where the factors of one attention layer can be folded exactly.

    Attributes:
        targets: The layers that take them. Empty if they can't be folded.
        reason: Why they can't be folded.
    """

    targets: tuple[Target, ...]
    reason: str = ""


class _UnfoldableError(Exception):
    """A constant can't be folded."""


class Planner:
    """Find the layers that can take an attention layer's factors.

    Args:
        graph: The graph of the network.
        use: The use of its parameters.
    """

    def __init__(self, graph: Graph, use: ParameterUse) -> None:
        self._times = graph.times_called()
        self._use = use
        own = [value.call.module for value in graph.values if _is_weighted(value)]
        self._single = {module for module in own if own.count(module) == 1}
        # Outputs of the network, and values that a hook reads, must not change.
        self._observed = {*graph.root.outputs, *_watched(graph)}

    def plan(self, calls: Sequence[Call], factors: Tensor) -> Plan:
        """Return where these factors can be folded.

        Args:
            calls: The calls of the attention layer.
            factors: (C,), float64.
        """
        try:
            if len(calls) != 1:
                raise _UnfoldableError(f"it runs {len(calls)} times per forward pass")
            [call] = calls
            if len(call.inputs) != 1 or call.inputs[0].channels != len(factors):
                raise _UnfoldableError("it doesn't rescale a single feature map")
            return Plan(self._before(call, factors))
        except _UnfoldableError as reason:
            try:
                return Plan(self._after(calls))
            except _UnfoldableError:
                return Plan((), str(reason))

    def _before(self, call: Call, factors: Tensor) -> tuple[Target, ...]:
        [value] = call.inputs
        self._check_alone(value, all(user.call.within(call) for user in value.users))
        found = self._behind(value, 0, factors)
        if len({target.module for target in found}) < len(found):
            raise _UnfoldableError("the same feature map is used twice")
        return tuple(found)

    def _after(self, calls: Sequence[Call]) -> tuple[Target, ...]:
        """Find the only convolution that reads the rescaled feature map. Factors of any sign go into it."""
        if len(calls) != 1 or not calls[0].single:
            raise _UnfoldableError("it doesn't return a single feature map")
        [value] = calls[0].outputs
        while True:
            if len(value.users) != 1 or value in self._observed:
                raise _UnfoldableError("the feature map after it is also used elsewhere")
            [user] = value.users
            if user.conv_rank:
                return (self._reader(user, value),)
            alike = len(user.inputs) == 1 and user.shape[:2] == value.shape[:2] and user.channel_dim == 1
            if not alike or user.op not in (*LINEAR, "mul"):
                raise _UnfoldableError(f"a {user.op} comes after")
            value = user

    def _behind(self, value: Value, start: int, factors: Tensor) -> list[Target]:
        if _is_weighted(value):
            return [self._target(value, start)]
        if value.op == "cat":
            return self._concatenated(value, start, factors)
        piece = factors[start : start + value.channels]
        if (value.op in RECTIFIERS and not (piece >= 0).all()) or (value.op in MAX_POOLS and not (piece > 0).all()):
            raise _UnfoldableError(f"some factors are not positive, and a {value.op} comes before")
        scaled = value.op == "mul" and len(value.inputs) == 1  # by a number or a parameter
        if value.op not in (*LINEAR, *RECTIFIERS, *MAX_POOLS) and not scaled:
            raise _UnfoldableError(f"a {value.op} comes before")
        source, *others = value.inputs
        if others or source.shape[:2] != value.shape[:2] or source.channel_dim != 1:
            raise _UnfoldableError(f"{value.op} mixes channels")
        self._check_alone(source, all(user is value for user in source.users))
        return self._behind(source, start, factors)

    def _concatenated(self, value: Value, start: int, factors: Tensor) -> list[Target]:
        if sum(source.channels for source in value.inputs) != value.channels:
            raise _UnfoldableError("the concatenation is not one of channels")
        found: list[Target] = []
        for source in value.inputs:
            self._check_alone(source, all(user is value for user in source.users))
            found += self._behind(source, start, factors)
            start += source.channels
        return found

    def _check_alone(self, value: Value, only_user: bool) -> None:
        if not only_user or value in self._observed:
            raise _UnfoldableError("the feature map before it is also used elsewhere")

    def _target(self, value: Value, start: int) -> Target:
        module, path = value.call.module, value.call.path
        weight = module._parameters.get("weight")
        if not isinstance(module, LAYERS) or weight is None or len(weight) != value.channels:
            raise _UnfoldableError("no layer with its own weights comes before")
        self._check_own(module, path, "before")
        return Target(path, module, start)

    def _reader(self, value: Value, source: Value) -> Target:
        module, path = value.call.module, value.call.path
        weight = module._parameters.get("weight")
        if not isinstance(module, LAYERS) or weight is None or weight.shape[1] * value.groups != source.channels:
            raise _UnfoldableError("no layer with its own weights comes after")
        if value.inputs != (source,):
            raise _UnfoldableError("the layer after it reads something else too")
        self._check_own(module, path, "after")
        return Target(path, module, 0, inputs=True)

    def _check_own(self, module: nn.Module, path: str, side: str) -> None:
        if self._times[module] != 1:
            raise _UnfoldableError(f"{path}, the layer {side}, runs {self._times[module]} times")
        if module not in self._single or not self._use.is_alone(module):
            raise _UnfoldableError(f"the weights of {path}, the layer {side}, are shared or computed")


def _is_weighted(value: Value) -> bool:
    return value.conv_rank > 0 or any(norm in value.op for norm in NORMS)


def _watched(graph: Graph) -> set[Value]:
    """Return the values that hooks read, except the hooks of `retrofit`."""
    found: set[Value] = set()
    for call in graph.calls:
        side = side_of(call.module)
        if len(call.module._forward_hooks) > (side == "output"):
            found.update(call.outputs)
        if len(call.module._forward_pre_hooks) > (side == "input"):
            found.update(call.inputs)
    return found


def fold(targets: Sequence[Target], factors: Tensor, undo: ExitStack) -> None:
    """Multiply the layers' weights and biases in place, computed in float64.

    Args:
        targets: The layers.
        factors: (C,), float64.
        undo: Closing it restores the old values.
    """
    for target in targets:
        for parameter in (target.module.weight, None if target.inputs else target.module.bias):
            if parameter is None:
                continue
            assert isinstance(parameter, Tensor)
            old = parameter.detach().clone()
            undo.callback(_write, parameter, old)
            _write(parameter, (in_float64(old) * _beside(old, target, factors)).to(old.dtype))


def _beside(weight: Tensor, target: Target, factors: Tensor) -> Tensor:
    """Return the factors in a shape that multiplies the weight."""
    if not target.inputs:
        return factors[target.start : target.start + len(weight)].reshape(-1, *(1 for _ in weight.shape[1:]))
    groups = len(factors) // weight.shape[1]  # the weight's first dimension counts the outputs, group by group
    rows = factors.reshape(groups, -1).repeat_interleave(len(weight) // groups, dim=0)
    return rows.reshape(*rows.shape, *(1 for _ in weight.shape[2:]))


@torch.no_grad()
def _write(parameter: Tensor, values: Tensor) -> None:
    parameter.copy_(values)
