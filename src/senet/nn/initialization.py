"""Initialization of attention layers: as published, or as the identity (for insertion into a trained network)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final

from torch import Tensor, nn

from senet.nn._table import look_up
from senet.nn.gate import GATES

__all__ = ["INITS"]

# Each name selects one of the two forms of a gate. "identity" also needs a last layer of zeros.
INITS: Final[Mapping[str, Callable[[Any], Callable[..., Tensor]]]] = {
    "default": attrgetter("plain"),
    "identity": attrgetter("centred"),
}


def gate_function(gate: str, init: str) -> Callable[[Tensor], Tensor]:
    """Return the gate function `gate` in the form for the initialization `init`.

    Raises:
        UnknownNameError: There is no such gate or init.
    """
    return look_up("init", init, INITS)(look_up("gate", gate, GATES))


def zero(layer: nn.Module) -> None:
    """Set the weight and the bias (if there is one) of `layer` to zero."""
    for parameter in layer.parameters(recurse=False):
        nn.init.zeros_(parameter)
