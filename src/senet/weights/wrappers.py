"""Networks inside others (compiled, parallel, averaged), and the names that their weights have without those."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from senet.errors import CheckpointError

__all__ = ["ALWAYS", "bare", "plain_names", "unwrapped"]

ALWAYS: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Children's names that only wrappers have: `torch.compile`, FSDP, activation checkpointing."""

_MODULE: Final = "module"
"""The child's name in DataParallel and what is built like it; a network of the user's own may have such a child too."""

_AVERAGED: Final = "n_averaged"
"""The counter that `torch.optim.swa_utils.AveragedModel` keeps beside its module."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside compiled, parallel and averaged ones, however many lie around it."""
    while (name := _inner(model)) is not None:
        model = getattr(model, name)
    return model


def plain_names(model: nn.Module) -> dict[str, str]:
    """Each key of the state dict as it would be without wrappers anywhere in the network, to the key that it is."""
    wrappers = {
        f"{path}.{_inner(m)}".lstrip(".") for path, m in model.named_modules(remove_duplicate=False) if _inner(m)
    }
    names: dict[str, str] = {}
    for key in model.state_dict():
        parts = key.split(".")
        kept = [part for i, part in enumerate(parts) if ".".join(parts[: i + 1]) not in wrappers]
        names[".".join(kept)] = key
    return names


def bare(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """A state dict without what wrappers put before and into its keys.

    Raises:
        CheckpointError: Two keys would become one.
    """
    found = _renamed(tensors, ALWAYS, source)
    inner = [key for key in found if key != _AVERAGED]
    if inner and all(key.startswith(f"{_MODULE}.") for key in inner):
        return bare({key.removeprefix(f"{_MODULE}."): found[key] for key in inner}, source)
    return found


def _inner(module: nn.Module) -> str | None:
    """The name of the child that a wrapper holds; None if this is none: it computes with weights of its own."""
    names = list(module._modules)
    if len(names) == 1 and names[0] in (*ALWAYS, _MODULE) and not module._parameters:
        return names[0]
    return None


def _renamed(tensors: Mapping[str, Tensor], parts: frozenset[str], source: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    before: dict[str, str] = {}
    for key, tensor in tensors.items():
        name = ".".join(part for part in key.split(".") if part not in parts)
        if name in found:
            raise CheckpointError(f"{source}: {key} and {before[name]} are two names for one weight, {name}")
        found[name], before[name] = tensor, key
    return found
