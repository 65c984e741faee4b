"""Walk along the values of a traced network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from senet.graph.values import CONVOLUTIONS, NORMS, RESHAPES, Call, Graph, Value

__all__ = [
    "POOLS",
    "SHAPES",
    "TRANSPARENT",
    "around",
    "between",
    "finish",
    "is_product",
    "reach",
    "source_of",
    "steps_back",
]

POOLS: Final = ("mean", "sum", "adaptive_avg_pool", "avg_pool", "max_pool", "amax", "max", "var_mean", "std")
ACTIVATIONS: Final = (
    "relu", "relu6", "hardtanh", "silu", "gelu", "hardswish", "hardsigmoid", "leaky_relu", "elu", "celu", "selu",
    "mish", "prelu", "_prelu_kernel", "clamp", "clamp_min", "sigmoid", "tanh", "rrelu_with_noise", "softplus",
)  # fmt: skip
# Operations that keep the positions and channels of a feature map.
TRANSPARENT: Final = (
    "dropout",
    "native_dropout",
    "clone",
    "_to_copy",
    "contiguous",
    "alias",
    "detach",
    "copy",
    "lift_fresh",
)
SLICES: Final = ("slice", "split", "split_with_sizes", "unsafe_split", "chunk", "narrow", "select", "getitem")
SHAPES: Final = (
    *RESHAPES,
    "permute",
    "transpose",
    "t",
    "expand",
    "unsqueeze",
    "squeeze",
    "pixel_shuffle",
    "channel_shuffle",
)


def is_product(value: Value) -> bool:
    """Whether it is a matrix product of two values, as in attention among positions."""
    return len(value.inputs) > 1 and ("attention" in value.op or value.op in ("bmm", "baddbmm"))


def finish(value: Value) -> Value:
    """Return the feature map after the norm and the activation that follow a convolution or a sum."""
    while len(value.users) == 1:
        [user] = value.users
        same = user.shape == value.shape and user.channel_dim == value.channel_dim
        if not same or user.weighted or len(set(user.inputs)) != 1 or any(p in user.op for p in POOLS):
            break
        value = user
    return value


def between(first: Value, last: Value) -> list[Value]:
    """Return the values that `finish` passed, without `first`."""
    found = []
    while last is not first:
        found.append(last)
        last = last.inputs[0]
    return found


def around(values: Iterable[Value], graph: Graph) -> Call:
    """Return the smallest call that computed all of them."""
    first, *others = values
    call: Call | None = first.call
    while call is not None and not all(v.call.within(call) for v in others):
        call = call.parent
    return call or graph.root


def source_of(value: Value, call: Call) -> Value:
    """Return the value before slices and reshapes within `call`."""
    while value.call.within(call) and value.op in (*SLICES, *SHAPES, *TRANSPARENT) and value.inputs:
        value = value.inputs[0]
    return value


def reach(values: Iterable[Value], call: Call) -> frozenset[Value]:
    """Return all values within `call` that these depend on, and the outside values that enter it."""
    seen = set(values)
    queue = list(seen)
    while queue:
        value = queue.pop()
        if not value.call.within(call) or value.op == "input":
            continue
        for source in value.inputs:
            if source not in seen:
                seen.add(source)
                queue.append(source)
    return frozenset(seen)


def steps_back(value: Value) -> Value | None:
    """Return the value one operation earlier, if attention can also come before this operation."""
    if len(set(value.inputs)) != 1 or value.op in CONVOLUTIONS or any(norm in value.op for norm in NORMS):
        return None
    if value.op in (*TRANSPARENT, *SLICES, *ACTIVATIONS, "permute") or (
        value.op in ("mul", "div", "add") and not value.weighted
    ):
        return value.inputs[0]
    return None
