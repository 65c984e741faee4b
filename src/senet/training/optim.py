"""Optimizer and learning rate schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from senet.training.recipe import Recipe

__all__ = ["make_optimizer", "make_schedule"]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum, or AdamW. Vectors (norms, biases) have no weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(groups, lr=recipe.lr, momentum=0.9, nesterov=True),
        "adamw": lambda: torch.optim.AdamW(groups, lr=recipe.lr),
    }
    return makers[recipe.optimizer]()


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> LRScheduler:
    """Make the learning rate schedule over `steps` optimizer steps."""
    warmup = round(steps * min(1.0, recipe.warmup_epochs / recipe.epochs))
    if recipe.schedule == "one-cycle":
        rising = min(max(warmup / steps, 1 / steps), 0.9)
        return OneCycleLR(optimizer, max_lr=recipe.lr, total_steps=steps + 1, pct_start=rising)
    per_epoch = steps / recipe.epochs

    def cosine(step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    def drop(step: int) -> float:
        return recipe.step_factor ** sum(step >= round(epoch * per_epoch) for epoch in recipe.step_epochs)

    after = {"cosine": cosine, "step": drop, "constant": lambda _: 1.0}[recipe.schedule]
    return LambdaLR(optimizer, lambda step: (step + 1) / warmup if step < warmup else after(step))
