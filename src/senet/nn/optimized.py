"""What `senet.optimize` makes: layers that evaluate only, and how a network is known that has some."""

from __future__ import annotations

from torch import nn

from senet.errors import SenetError

__all__ = ["Optimized", "refuse_optimized"]


class Optimized(nn.Module):
    """Base of the layers of an optimized network: norms are folded, gates merged, so nothing can be put between."""


def refuse_optimized(model: nn.Module, verb: str) -> None:
    """Raise a `SenetError` if the network was optimized for inference."""
    if any(isinstance(module, Optimized) for module in model.modules()):
        raise SenetError(f"{type(model).__name__} was optimized for inference: {verb} the network, then optimize it")
