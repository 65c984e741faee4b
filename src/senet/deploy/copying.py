"""Copy any network for inference, with plain parameters as weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from senet.errors import SenetError
from senet.graph.replica import replica
from senet.weights.wrappers import unwrapped

__all__ = ["copied", "with_plain_weights"]


def copied(model: nn.Module) -> nn.Module:
    """Copy a network in float32 to the CPU, in evaluation mode, without wrappers around it or its parts.

    Hooks for gradients are removed.

    Raises:
        SenetError: The network can't be copied.
    """
    model = unwrapped(model)
    try:
        result = replica(model, meta=False).cpu().float()
    except Exception as error:  # from the network's own attributes: files, generators
        raise SenetError(f"{type(model).__name__} can't be copied: {error}") from error
    for module in list(result.modules()):
        for name, child in module.named_children():
            setattr(module, name, unwrapped(child))
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    return result


@torch.no_grad()
def with_plain_weights(model: nn.Module) -> nn.Module:
    """Replace computed weights (weight norm, spectral norm, pruning masks) by their values, in place."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            _end_parametrizations(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    return model


def _end_parametrizations(module: nn.Module) -> None:
    """Do as `remove_parametrizations`, which changes the class and so the original network too."""
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    values = {name: getattr(module, name).detach().clone() for name in lists}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))
