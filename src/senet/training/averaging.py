"""Averaged weights of a network in training."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["AveragedWeights"]


class AveragedWeights(nn.Module):
    """An exponential average of a network's weights and buffers. It never waits for the device.

    The decay rises as (1 + n) / (10 + n) up to its value after n updates. Integer buffers are copied.

    Args:
        model: The network.
        decay: Decay of an update.

    Attributes:
        module: The averaged network.
        n_averaged: Number of updates, as saved in a training state.

    Differs: `torch.optim.swa_utils.AveragedModel` reads the number of updates from the device in each one.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.n_averaged: Tensor
        self.register_buffer("n_averaged", torch.tensor(0))
        self._updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the network's weights."""
        averaged, current = _tensors(self.module), _tensors(model)
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates)) if self._updates else 0.0
        real = [(a, c) for a, c in zip(averaged, current, strict=True) if a.is_floating_point()]
        whole = [(a, c) for a, c in zip(averaged, current, strict=True) if not a.is_floating_point()]
        if real:
            torch._foreach_lerp_([a for a, _ in real], [c for _, c in real], 1 - decay)
        if whole:
            torch._foreach_copy_([a for a, _ in whole], [c for _, c in whole])
        self._updates += 1
        self.n_averaged.fill_(self._updates)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: object) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._updates = int(self.n_averaged)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(p.detach() for p in model.parameters()), *model.buffers()]
