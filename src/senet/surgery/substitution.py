"""Put another layer in the place of a layer, wherever the network holds it, so that it can be taken back."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from senet.surgery.insertion import CHILD, extract, side_of

__all__ = ["substitute"]


def substitute(model: nn.Module, layer: nn.Module, new: nn.Module | None, undo: ExitStack) -> None:
    """Put `new` in the place of `layer` under each of its names.

    Args:
        model: The network.
        layer: Anywhere below it.
        new: None takes the layer away: an inserted one with its hook, else an identity stays.
        undo: Closing it puts everything back.
    """
    for parent in list(model.modules()):
        for name in [name for name, child in parent._modules.items() if child is layer]:
            for kept in (parent._modules, parent._forward_hooks, parent._forward_pre_hooks):
                undo.callback(_restore, kept, list(kept.items()))
            if new is None and name == CHILD and side_of(parent) is not None:
                extract(parent)
            else:
                parent._modules[name] = nn.Identity().train(layer.training) if new is None else new


def _restore(mapping: MutableMapping[Any, Any], items: list[tuple[Any, Any]]) -> None:
    mapping.clear()
    mapping.update(items)
