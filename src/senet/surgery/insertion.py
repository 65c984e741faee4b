"""Attach an attention layer to a module's output or input, and detach it, without renaming parameters.

The layer becomes a child module named `attention`, so every key of the original state dict stays. A forward hook
applies it. The hook finds the layer on the module itself, so the network can be copied, pickled, compiled, exported
and wrapped.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import nn

from senet.graph.compiled import discard_compiled_code, plain_modules
from senet.nn import Attention
from senet.nn.inserted import CHILD, rescale_output

__all__ = ["CHILD", "attach", "detach", "extract", "insert", "inserted", "side_of", "without_insertions"]


def _rescale_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return getattr(module, CHILD)(args[0]), *args[1:]


def _add_missing_keys(
    attention: nn.Module,
    state_dict: MutableMapping[str, Any],
    prefix: str,
    *others: Any,  # noqa: ARG001
) -> None:
    """Load checkpoints from before the insertion: the attention keeps its own values."""
    if not any(key.startswith(prefix) for key in state_dict):
        state_dict.update({prefix + key: tensor for key, tensor in attention.state_dict().items()})


def insert(module: nn.Module, attention: Attention, side: str) -> None:
    """Attach a layer that rescales `module`'s output or first input, including in compiled networks."""
    attach(module, attention, side)
    discard_compiled_code()


def extract(module: nn.Module) -> Attention:
    """Detach the inserted layer and return it, including from compiled networks."""
    attention = detach(module)
    discard_compiled_code()
    return attention


def attach(module: nn.Module, attention: Attention, side: str) -> None:
    """Attach a layer to a module of a network that wasn't compiled."""
    attention.train(module.training)
    attention.register_load_state_dict_pre_hook(_add_missing_keys)
    module.add_module(CHILD, attention)
    if side == "output":
        # Before other hooks, so that they get the rescaled output.
        module.register_forward_hook(rescale_output, prepend=True)
    else:
        module.register_forward_pre_hook(_rescale_input, prepend=True)


def detach(module: nn.Module) -> Attention:
    """Detach a layer from a module of a network that wasn't compiled."""
    for hooks, ours in ((module._forward_hooks, rescale_output), (module._forward_pre_hooks, _rescale_input)):
        for key in [key for key, hook in hooks.items() if hook is ours]:
            del hooks[key]
    attention = getattr(module, CHILD)
    assert isinstance(attention, Attention)
    delattr(module, CHILD)
    return attention


def side_of(module: nn.Module) -> str | None:
    """Return the side ("input" or "output") of this module's inserted layer, or None."""
    if rescale_output in module._forward_hooks.values():
        return "output"
    return "input" if _rescale_input in module._forward_pre_hooks.values() else None


def inserted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield path and module of each insertion. Paths leave out compiled wrappers."""
    for path, module in plain_modules(model).items():
        if side_of(module) is not None:
            yield path, module


def without_insertions(model: nn.Module) -> nn.Module:
    """Detach all inserted layers, and return the same network."""
    for _, module in list(inserted(model)):
        detach(module)
    return model
