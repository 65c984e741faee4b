"""Attention attached to a module's output by a hook: how it is applied and found."""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor, nn

from senet.nn.attention import Attention

__all__ = ["CHILD", "inserted_after", "rescale_output"]

CHILD: Final = "attention"
"""Name of the inserted layer in its module."""


def rescale_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:  # noqa: ARG001 - a hook's signature
    """Rescale a module's output by its attention child. This is the forward hook."""
    return getattr(module, CHILD)(output)


def inserted_after(module: nn.Module) -> Attention | None:
    """Return the layer that rescales the module's output, if no other hook is on the module."""
    if list(module._forward_hooks.values()) != [rescale_output]:
        return None
    layer = getattr(module, CHILD)
    return layer if isinstance(layer, Attention) else None
