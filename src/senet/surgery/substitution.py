"""Substitute a layer wherever the network holds it, with undo."""

from __future__ import annotations

from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Any

from torch import nn

from senet.surgery.insertion import CHILD, extract, side_of

__all__ = ["substitute"]


def substitute(model: nn.Module, layer: nn.Module, new: nn.Module | None, undo: ExitStack) -> None:
    """Substitute `new` for `layer` under each of its names.

    Args:
        model: The network.
        layer: A layer of the network.
        new: The new layer. None removes an inserted layer with its hook, and substitutes an identity for others.
        undo: Closing it restores the network.
    """
    for parent in list(model.modules()):
        for name in [name for name, child in parent._modules.items() if child is layer]:
            for mapping in (parent._modules, parent._forward_hooks, parent._forward_pre_hooks):
                undo.callback(_restore, mapping, list(mapping.items()))
            if new is None and name == CHILD and side_of(parent) is not None:
                extract(parent)
            else:
                parent._modules[name] = nn.Identity().train(layer.training) if new is None else new


def _restore(mapping: MutableMapping[Any, Any], items: list[tuple[Any, Any]]) -> None:
    mapping.clear()
    mapping.update(items)
