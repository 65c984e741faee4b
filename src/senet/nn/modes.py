"""Context managers that run a network in evaluation mode or uncompiled, and restore it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluation_mode", "uncompiled"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode within the block, and restore each module's own mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run compiled networks by their modules within the block. Compiled code ignores hooks registered later."""
    # Compiling imports this package, and importing it takes seconds. So check first.
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
