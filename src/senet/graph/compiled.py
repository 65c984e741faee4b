"""Networks that `torch.compile` has wrapped: the modules behind the wrappers, and code compiled before a change."""

from __future__ import annotations

import sys
from typing import Final

import torch
from torch import nn

__all__ = ["discard_compiled_code", "plain_modules", "plain_path"]

WRAPPED: Final = "_orig_mod"
"""Name of the network in the wrapper that `torch.compile` puts around it."""


def plain_path(path: str) -> str:
    """The path that a module has in the network without compiled wrappers."""
    return ".".join(part for part in path.split(".") if part != WRAPPED)


def plain_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Path to module as in the network without compiled wrappers: these are left out, and so is their part of a path.

    The network itself has the empty path.
    """
    return {plain_path(path): module for path, module in model.named_modules() if not _is_wrapper(module)}


def _is_wrapper(module: nn.Module) -> bool:
    # Nothing is compiled before this package of torch, slow to import, has been imported.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def discard_compiled_code() -> None:
    """Let compiled networks be compiled again at their next call.

    Compiled code has the hooks that were there when it was made, and doesn't look for new ones. Which code belongs to
    which network isn't recorded, so all of it goes.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
