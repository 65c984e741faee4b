"""How a layer starts: as its paper says, or as the identity (for insertion into a trained network)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final

from torch import Tensor, nn

from senet.nn._table import look_up
from senet.nn.gate import GATES

__all__ = ["INITS"]

# A start picks one of the two forms of whatever makes the gate; "identity" also needs the last layer at zero.
INITS: Final[Mapping[str, Callable[[Any], Callable[..., Tensor]]]] = {
    "default": attrgetter("plain"),
    "identity": attrgetter("centred"),
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
