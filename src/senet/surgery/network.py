"""Which networks surgery can work on."""

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
"""Of these packages: sums and concatenations that compute in floating point until they are converted."""


def operable(model: nn.Module) -> nn.Module:
    """The network itself, without the wrapper of `torch.compile`.

    Raises:
        SenetError: It is wrapped for several processes, scripted, quantized, or optimized for inference.
    """
    if not isinstance(model, nn.Module):
        raise SenetError(f"model is {type(model).__name__}, not a torch.nn.Module")
    model = plain_modules(model)[""]
    refuse_optimized(model, "retrofit")
    name = type(model).__name__
    for path, module in plain_modules(model).items():
        which = f"{name}'s {path}" if path else name
        if any(kind.__name__ in DISTRIBUTED and kind.__module__.startswith("torch.") for kind in type(module).__mro__):
            raise SenetError(f"{which} has counted its parameters already: retrofit the module, then wrap it")
        if _is_quantized(module):
            raise SenetError(
                f"{which} is quantized ({type(module).__module__}.{type(module).__name__}), so no gate could learn: "
                "retrofit the network in floating point, train, then quantize it"
            )
    if isinstance(model, torch.jit.ScriptModule):
        raise SenetError(f"{name} is scripted or traced: its modules are fixed; retrofit the network, then script it")
    return model


def _is_quantized(module: nn.Module) -> bool:
    """Whether it computes with integers: by its class, its tensors, or (a graph without modules) its operations."""
    kind = type(module)
    if kind.__module__.startswith(QUANTIZED) and kind.__name__ not in FLOATING:
        return True
    if any(t.is_quantized for t in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        return True
    operations = [str(node.target) for node in module.graph.nodes] if isinstance(module, torch.fx.GraphModule) else ()
    return any("quantize" in operation and "fake_quantize" not in operation for operation in operations)
