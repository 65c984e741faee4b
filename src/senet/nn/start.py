"""How a layer starts: as its paper says, or as the identity (for insertion into a trained network)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from torch import Tensor, nn

from senet.nn._table import look_up
from senet.nn.gate import GATES, Gate

__all__ = ["INITS"]


def _plain(gate: Gate) -> Callable[[Tensor], Tensor]:
    return gate.plain


def _centred(gate: Gate) -> Callable[[Tensor], Tensor]:
    return gate.centred


# A start is a choice between the two forms of the gate; "identity" also needs the last layer at zero.
INITS: Final[Mapping[str, Callable[[Gate], Callable[[Tensor], Tensor]]]] = {
    "default": _plain,
    "identity": _centred,
}


def gate_function(gate: str, init: str) -> Callable[[Tensor], Tensor]:
    """Return the gate called `gate` in the form that the start called `init` needs.

    Raises:
        UnknownNameError: There is no such gate or start.
    """
    return look_up("init", init, INITS)(look_up("gate", gate, GATES))


def zero(layer: nn.Module) -> None:
    """Set weight and, if there is one, bias of `layer` to zero."""
    for parameter in layer.parameters(recurse=False):
        nn.init.zeros_(parameter)
