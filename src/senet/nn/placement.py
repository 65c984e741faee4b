"""Placement: where the block sits in a residual block.

Each placement is a function of the block's input and four callables, and reads as its diagram:
`(x, branch, shortcut, se, act)`, with `branch` the residual branch, `shortcut` the identity or projection,
`se` the block and `act` the activation after the sum.

Source: Hu et al. 2018, section 6.5, Fig. 5 and Tables 14-15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor

__all__ = ["PLACEMENTS", "Placement"]

Map = Callable[[Tensor], Tensor]


def standard(x: Tensor, branch: Map, shortcut: Map, se: Map, act: Map) -> Tensor:
    """Rescale the branch before the sum (the paper's choice)."""
    return act(shortcut(x) + se(branch(x)))


def pre(x: Tensor, branch: Map, shortcut: Map, se: Map, act: Map) -> Tensor:
    """Rescale what enters the branch ("SE-PRE")."""
    return act(shortcut(x) + branch(se(x)))


def post(x: Tensor, branch: Map, shortcut: Map, se: Map, act: Map) -> Tensor:
    """Rescale the block's output, after the sum and the activation ("SE-POST")."""
    return se(act(shortcut(x) + branch(x)))


def identity(x: Tensor, branch: Map, shortcut: Map, se: Map, act: Map) -> Tensor:
    """Rescale the shortcut, in parallel to the branch ("SE-Identity")."""
    return act(se(shortcut(x)) + branch(x))


def conv3x3(x: Tensor, branch: Callable[[Tensor, Map], Tensor], shortcut: Map, se: Map, act: Map) -> Tensor:
    """Rescale inside the branch, right after its 3x3 convolution ("SE_3x3", Table 15).

    `branch` is called with `se` as its second argument and applies it after that convolution's norm and ReLU.
    """
    return act(shortcut(x) + branch(x, se))


@dataclass(frozen=True)
class Placement:
    """A place in the residual block.

    Attributes:
        apply: The block as a function, `(x, branch, shortcut, se, act)` -> output.
        site: Whose channels the block must have: the block's input ("in"), its output ("out"), or the 3x3
            convolution inside the branch ("inner").
    """

    apply: Callable[[Tensor, Callable[..., Any], Map, Map, Map], Tensor]
    site: Literal["in", "out", "inner"]


PLACEMENTS: Final[Mapping[str, Placement]] = {
    "standard": Placement(standard, "out"),
    "pre": Placement(pre, "in"),
    "post": Placement(post, "out"),
    "identity": Placement(identity, "out"),
    "conv3x3": Placement(conv3x3, "inner"),
}
