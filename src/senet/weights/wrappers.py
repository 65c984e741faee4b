"""Unwrap networks (compiled, parallel, averaged) and remove the wrappers from the names of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor, nn

from senet.errors import CheckpointError

__all__ = ["WRAPPER_NAMES", "plain_names", "strip_wrappers", "unwrapped"]

WRAPPER_NAMES: Final = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Child names that only wrappers use: `torch.compile`, FSDP, activation checkpointing."""

_MODULE: Final = "module"
"""Child name in DataParallel and similar wrappers. A user's own network may have a child of this name too."""

_AVERAGED: Final = "n_averaged"
"""Counter of `torch.optim.swa_utils.AveragedModel` beside its module."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside any number of compiled, parallel and averaging wrappers."""
    while (name := _inner(model)) is not None:
        model = getattr(model, name)
    return model


def plain_names(model: nn.Module) -> dict[str, str]:
    """Map each key of the state dict without wrappers to the actual key."""
    wrappers = {
        f"{path}.{_inner(m)}".lstrip(".") for path, m in model.named_modules(remove_duplicate=False) if _inner(m)
    }
    names: dict[str, str] = {}
    for key in model.state_dict():
        parts = key.split(".")
        kept = [part for i, part in enumerate(parts) if ".".join(parts[: i + 1]) not in wrappers]
        names[".".join(kept)] = key
    return names


def strip_wrappers(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Remove the names of wrappers from the keys of a state dict.

    Raises:
        CheckpointError: Two keys would get the same name.
    """
    found = _renamed(tensors, WRAPPER_NAMES, source)
    inner = [key for key in found if key != _AVERAGED]
    if inner and all(key.startswith(f"{_MODULE}.") for key in inner):
        return strip_wrappers({key.removeprefix(f"{_MODULE}."): found[key] for key in inner}, source)
    return found


def _inner(module: nn.Module) -> str | None:
    """Return the name of a wrapper's child, None if the module is not a wrapper."""
    names = list(module._modules)
    if len(names) == 1 and names[0] in (*WRAPPER_NAMES, _MODULE) and not module._parameters:
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
