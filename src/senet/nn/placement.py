"""Placements: where attention sits in a residual block.

Each placement is a function of the block's input and four callables: `(x, branch, shortcut, se, act)`. `branch` is
the residual branch, `shortcut` the identity or projection, `se` the attention and `act` the activation after the sum.

Source: Hu et al. 2018, section 6.5, Fig. 5 and Tables 14-15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import Tensor

__all__ = ["PLACEMENTS", "Placement"]

Op = Callable[[Tensor], Tensor]


def standard(x: Tensor, branch: Op, shortcut: Op, se: Op, act: Op) -> Tensor:
    """Rescale the branch before the sum (the paper's choice)."""
    return act(shortcut(x) + se(branch(x)))


def pre(x: Tensor, branch: Op, shortcut: Op, se: Op, act: Op) -> Tensor:
    """Rescale the input of the branch ("SE-PRE")."""
    return act(shortcut(x) + branch(se(x)))


def post(x: Tensor, branch: Op, shortcut: Op, se: Op, act: Op) -> Tensor:
    """Rescale the block's output, after the sum and the activation ("SE-POST")."""
    return se(act(shortcut(x) + branch(x)))


def identity(x: Tensor, branch: Op, shortcut: Op, se: Op, act: Op) -> Tensor:
    """Rescale the shortcut, in parallel to the branch ("SE-Identity")."""
    return act(se(shortcut(x)) + branch(x))


def conv3x3(x: Tensor, branch: Callable[[Tensor, Op], Tensor], shortcut: Op, se: Op, act: Op) -> Tensor:
    """Rescale inside the branch, right after its 3x3 convolution ("SE_3x3", Table 15).

    `branch` is called with `se` as its second argument and applies it after that convolution's norm and ReLU.
    """
    return act(shortcut(x) + branch(x, se))


@dataclass(frozen=True)
class Placement:
    """A placement of attention in a residual block.

    Attributes:
        apply: The residual block as a function, `(x, branch, shortcut, se, act)` -> output.
        channels_of: Determines the channels of the attention: the block's input ("in"), its output ("out"), or the
            3x3 convolution inside the branch ("inner").

    Example:
        >>> import torch
        >>> from senet.nn import PLACEMENTS
        >>> identity, double, zero = (lambda x: x), (lambda x: 2 * x), torch.zeros_like
        >>> standard = PLACEMENTS["standard"]
        >>> standard.apply(torch.ones(1), branch=double, shortcut=identity, se=zero, act=torch.relu)
        tensor([1.])
        >>> standard.channels_of
        'out'
    """

    apply: Callable[[Tensor, Callable[..., Any], Op, Op, Op], Tensor]
    channels_of: Literal["in", "out", "inner"]


PLACEMENTS: Final[Mapping[str, Placement]] = {
    "standard": Placement(standard, "out"),
    "pre": Placement(pre, "in"),
    "post": Placement(post, "out"),
    "identity": Placement(identity, "out"),
    "conv3x3": Placement(conv3x3, "inner"),
}
