"""Put an attention layer at a module's output or input, and take it away again, without renaming anything.

The layer becomes a child of that module, called `attention`, so every key of the original's state dict stays; a
forward hook applies it. What the hook needs is found on the module itself, so the network can be copied, pickled,
compiled, exported and wrapped.
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


def _fill_in(
    attention: nn.Module,
    state_dict: MutableMapping[str, Any],
    prefix: str,
    *others: Any,  # noqa: ARG001
) -> None:
    """Let a checkpoint from before the insertion load: what it can't know stays as it is."""
    if not any(key.startswith(prefix) for key in state_dict):
        state_dict.update({prefix + key: tensor for key, tensor in attention.state_dict().items()})


def insert(module: nn.Module, attention: Attention, side: str) -> None:
    """Rescale `module`'s output, or its first input, from now on, in compiled networks too."""
    attach(module, attention, side)
    discard_compiled_code()


def extract(module: nn.Module) -> Attention:
    """Take the inserted layer away and return it."""
    attention = detach(module)
    discard_compiled_code()
    return attention


def attach(module: nn.Module, attention: Attention, side: str) -> None:
    """`insert` for a module that no compiled code has seen."""
    attention.train(module.training)
    attention.register_load_state_dict_pre_hook(_fill_in)
    module.add_module(CHILD, attention)
    if side == "output":
        # Before hooks that others have put there: they shall see what follows.
        module.register_forward_hook(rescale_output, prepend=True)
    else:
        module.register_forward_pre_hook(_rescale_input, prepend=True)


def detach(module: nn.Module) -> Attention:
    """`extract` for a module that no compiled code has seen."""
    for hooks, ours in ((module._forward_hooks, rescale_output), (module._forward_pre_hooks, _rescale_input)):
        for key in [key for key, hook in hooks.items() if hook is ours]:
            del hooks[key]
    attention = getattr(module, CHILD)
    assert isinstance(attention, Attention)
    delattr(module, CHILD)
    return attention


def side_of(module: nn.Module) -> str | None:
    """Where an inserted layer sits on this module; None if there is none."""
    if rescale_output in module._forward_hooks.values():
        return "output"
    return "input" if _rescale_input in module._forward_pre_hooks.values() else None


def inserted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of each insertion, as in the network without compiled wrappers."""
    for path, module in plain_modules(model).items():
        if side_of(module) is not None:
            yield path, module


def without_insertions(model: nn.Module) -> nn.Module:
    """The same network after all inserted layers were taken away."""
    for _, module in list(inserted(model)):
        detach(module)
    return model
