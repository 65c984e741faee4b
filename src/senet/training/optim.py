"""Optimizer and learning rate schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from senet.training.recipe import LAMB, Recipe
from senet.weights.wrappers import WRAPPER_NAMES

__all__ = ["decayed_parameters", "make_optimizer", "make_schedule"]


def decayed_parameters(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters with weight decay: all except vectors (norms, biases)."""
    return frozenset(_plain(name) for name, p in model.named_parameters() if p.ndim > 1)


def make_optimizer(
    model: nn.Module,
    recipe: Recipe,
    decayed: Collection[str] | None = None,
    *,
    scales: Mapping[str, float] | None = None,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum, AdamW, or timm's LAMB.

    Args:
        model: The network.
        recipe: Hyperparameters.
        decayed: `decayed_parameters` from before the network was sharded, which makes every parameter a vector. None
            for a network that isn't.
        scales: Parameter to the factor of its learning rate, 1 for other parameters.
        fused: As in PyTorch's optimizers. Scaled gradients of float16 are then checked on the device. LAMB has no such
            option.
    """
    decayed = decayed_parameters(model) if decayed is None else decayed
    found: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for name, p in model.named_parameters():
        if p.requires_grad:
            scale = (scales or {}).get(_plain(name), 1.0)
            found.setdefault((scale, _plain(name) in decayed), []).append(p)
    # The largest learning rate comes first, since logs show the first group's.
    groups: list[dict[str, Any]] = [
        {"params": found[key], "lr": recipe.lr * key[0], "weight_decay": recipe.weight_decay if key[1] else 0.0}
        for key in sorted(found, reverse=True)
        if found[key] or key[0] == 1.0
    ]
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True, fused=fused),
        "adamw": lambda: torch.optim.AdamW(groups, lr=recipe.lr, fused=fused),
        LAMB: lambda: _lamb(groups, recipe.lr),
    }
    return makers[recipe.optimizer]()


def _lamb(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    from timm.optim import Lamb

    optimizer: torch.optim.Optimizer = Lamb(groups, lr=lr)
    return optimizer


def _plain(name: str) -> str:
    """Return the name of a parameter without the wrappers around its module."""
    return ".".join(part for part in name.split(".") if part not in WRAPPER_NAMES)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """Make the learning rate schedule over `steps` optimizer steps."""
    warmup = round(steps * min(1.0, recipe.warmup_epochs / recipe.epochs))
    if recipe.schedule == "one-cycle":
        rising = min(max(warmup / steps, 1 / steps), 0.9)
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=steps + 1, pct_start=rising)
    per_epoch = steps / recipe.epochs

    def cosine(step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    def drop(step: int) -> float:
        return recipe.step_factor ** sum(step >= round(epoch * per_epoch) for epoch in recipe.step_epochs)

    after = {"cosine": cosine, "step": drop, "constant": lambda _: 1.0}[recipe.schedule]
    return LambdaLR(optimizer, lambda step: (step + 1) / warmup if step < warmup else after(step))
