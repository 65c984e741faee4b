"""Check whether surgery supports a network."""

from __future__ import annotations

from typing import Final

import torch
from torch import nn

from senet.errors import SenetError
from senet.graph.compiled import plain_modules
from senet.nn.optimized import refuse_optimized

__all__ = ["operable"]

DISTRIBUTED: Final = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")
QUANTIZED: Final = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
FLOATING: Final = ("FloatFunctional", "FXFloatFunctional")
"""Modules of these packages that compute in floating point until they are converted."""


def operable(model: nn.Module) -> nn.Module:
    """Return the network without the wrapper of `torch.compile`.

    Raises:
        SenetError: It is wrapped for distributed training, scripted, quantized, or optimized for inference.
    """
    if not isinstance(model, nn.Module):
        raise SenetError(f"model is {type(model).__name__}, not a torch.nn.Module")
    model = plain_modules(model)[""]
    refuse_optimized(model, "retrofit")
    name = type(model).__name__
    for path, module in plain_modules(model).items():
        owner = f"{name}'s {path}" if path else name
        if any(kind.__name__ in DISTRIBUTED and kind.__module__.startswith("torch.") for kind in type(module).__mro__):
            raise SenetError(f"{owner} is wrapped for distributed training: retrofit the network first, then wrap it")
        if _is_quantized(module):
            raise SenetError(
                f"{owner} is quantized ({type(module).__module__}.{type(module).__name__}), so gates can't be trained: "
                "retrofit the floating-point network, train it, then quantize it"
            )
    if isinstance(model, torch.jit.ScriptModule):
        raise SenetError(
            f"{name} is scripted or traced, so its modules are fixed: retrofit the network, then script it"
        )
    return model


def _is_quantized(module: nn.Module) -> bool:
    """Whether it is quantized, by its class, its tensors, or the operations of an FX graph."""
    kind = type(module)
    if kind.__module__.startswith(QUANTIZED) and kind.__name__ not in FLOATING:
        return True
    if any(t.is_quantized for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        return True
    operations = [str(node.target) for node in module.graph.nodes] if isinstance(module, torch.fx.GraphModule) else ()
    return any("quantize" in operation and "fake_quantize" not in operation for operation in operations)
