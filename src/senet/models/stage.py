"""A stage: blocks one after the other, which may be recomputed in the backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senet.errors import SenetError

__all__ = ["Stage", "recomputes", "set_recomputing"]


@final
class Stage(nn.Sequential):
    """Blocks one after the other.

    A network calls it like any module: hooks fire, `forward` can be replaced, `compile()` and `fully_shard` apply.

    Attributes:
        checkpointing: In training, recompute each block in the backward pass instead of keeping its maps.

    Shape:
        (N, C, H, W) -> (N, C', H', W').
    """

    grad_checkpointing: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        for block in self:
            x = _recomputed(block, x) if self.grad_checkpointing and self.training else block(x)
        return x


def recomputes(stages: Iterable[nn.Module]) -> bool:
    """Whether any of these stages recomputes its blocks."""
    return any(getattr(stage, "grad_checkpointing", False) for stage in stages)


def set_recomputing(stages: Mapping[str, nn.Module], recompute: bool) -> None:
    """Let all stages recompute their blocks, or none.

    Raises:
        SenetError: A stage can't, since something else was put in its place; nothing is changed.
    """
    for number, stage in stages.items():
        if not hasattr(stage, "grad_checkpointing"):
            raise SenetError(
                f"stages.{number} is a {type(stage).__name__}, which can't recompute its blocks; "
                "gradient checkpointing needs a senet.models.Stage there"
            )
    for stage in stages.values():
        stage.grad_checkpointing = recompute  # type: ignore[assignment]


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # the compiler recomputes what a derivative needs, and no statistics
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_aside(block)))


@contextmanager
def _buffers_aside(block: nn.Module) -> Iterator[None]:
    """Let the recomputed pass write to copies of the buffers: running statistics must not count a batch twice."""
    kept = [
        (module, name, buffer) for module in block.modules() for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        for module, name, buffer in kept:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
