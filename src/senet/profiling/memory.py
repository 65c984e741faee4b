"""The memory of a training step: the tensors saved for the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["saved_bytes"]


def saved_bytes(model: nn.Module, images: Any, *, run: Callable[[nn.Module, Any], Any] | None = None) -> int:
    """Return the bytes that autograd saves in one forward pass in training mode, without parameters.

    Each storage counts once. Running statistics and modes are restored.

    Args:
        model: Any network.
        images: (N, C, H, W), on the network's device, or the argument of `run`.
        run: Calls the network, for example under autocast. None calls it directly.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from senet.profiling import saved_bytes
        >>> saved_bytes(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sigmoid()), torch.rand(1, 3, 8, 8))
        2816
    """
    saved: dict[int, int] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    modes = [(module, module.training) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            # The output keeps the graph and all its storages alive, so no address is reused and counted twice.
            graph = (run or _call)(model, images)
        del graph
    finally:
        for module, training in modes:
            module.training = training
        for name, buffer in model.named_buffers():
            buffer.data.copy_(buffers[name])
    return sum(saved.values())


def _call(model: nn.Module, images: Tensor) -> Any:
    return model(images)
