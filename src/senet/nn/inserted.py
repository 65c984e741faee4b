"""Attention that was hooked onto a module's output: how it is applied, and how it is found."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

from senet.nn.attention import Attention

__all__ = ["CHILD", "inserted_after", "rescale_output"]

CHILD: Final = "attention"
"""Name of the inserted layer in its module."""


def rescale_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:  # noqa: ARG001 - a hook's signature
    """The forward hook: the module's child rescales what the module gives."""
    return getattr(module, CHILD)(output)


def inserted_after(module: nn.Module) -> Attention | None:
    """The layer that rescales the module's output, if nothing else watches the module."""
    if list(module._forward_hooks.values()) != [rescale_output]:
        return None
    layer = getattr(module, CHILD)
    return layer if isinstance(layer, Attention) else None
