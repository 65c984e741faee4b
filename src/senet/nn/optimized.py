"""The layers of `senet.optimize`, which only evaluate, and a check for networks that contain them."""

from __future__ import annotations

from torch import nn

from senet.errors import SenetError

__all__ = ["Optimized", "refuse_optimized"]


class Optimized(nn.Module):
    """Base class of the layers of an optimized network, where norms are folded and gates merged."""


def refuse_optimized(model: nn.Module, command: str) -> None:
    """Raise a `SenetError` if the network was optimized for inference."""
    if any(isinstance(module, Optimized) for module in model.modules()):
        raise SenetError(f"{type(model).__name__} was optimized for inference: {command} the network, then optimize it")
