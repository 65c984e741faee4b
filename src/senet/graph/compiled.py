"""Networks wrapped by `torch.compile`: the modules inside the wrappers, and the reset of compiled code."""

from __future__ import annotations

import sys
from typing import Final

import torch
from torch import nn

__all__ = ["discard_compiled_code", "plain_modules", "plain_path"]

WRAPPED: Final = "_orig_mod"
"""Name of the network inside the wrapper of `torch.compile`."""


def plain_path(path: str) -> str:
    """Return the path of a module in the network without compiled wrappers."""
    return ".".join(part for part in path.split(".") if part != WRAPPED)


def plain_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by path, without compiled wrappers and their part of the path.

    The network itself has the empty path.
    """
    return {plain_path(path): module for path, module in model.named_modules() if not _is_wrapper(module)}


def _is_wrapper(module: nn.Module) -> bool:
    # Compiling imports this package of torch. It is slow to import, so check first.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def discard_compiled_code() -> None:
    """Discard compiled code, so that compiled networks are compiled again at their next call.

    Compiled code has the hooks from its creation and ignores new ones. PyTorch doesn't record which code belongs to
    which network, so all of it is discarded.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
