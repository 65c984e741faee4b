"""What a training keeps in memory: the maps that the backward pass needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["saved_bytes"]


def saved_bytes(model: nn.Module, images: Any, *, run: Callable[[nn.Module, Any], Any] | None = None) -> int:
    """Bytes that autograd keeps of one forward pass in training mode, parameters left out; each storage counts once.

    Running statistics and the mode are given back.

    Args:
        model: Any network.
        images: (N, C, H, W), where the network is; or what `run` takes.
        run: How to call it, e.g. under autocast; None calls it.
    """
    kept: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            # What is returned holds the graph, and so every storage: none is counted twice under a reused address.
            graph = (run or _call)(model, images)
        del graph
    finally:
        for module, training in modes:
            module.training = training
        for name, buffer in model.named_buffers():
            buffer.data.copy_(buffers[name])
    return sum(kept.values())


def _call(model: nn.Module, images: Tensor) -> Any:
    return model(images)
