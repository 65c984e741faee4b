"""A stage: consecutive blocks, which can be recomputed in the backward pass."""

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
    """Consecutive blocks of one resolution.

    A network calls it like any module: hooks run, `forward` can be replaced, `compile()` and `fully_shard` apply.

    Attributes:
        grad_checkpointing: In training, recompute each block in the backward pass instead of storing its feature maps.

    Shape:
        (N, C, H, W) -> (N, C', H', W').

    Example:
        >>> import torch, senet
        >>> stage = senet.create_model("cifar_resnet20").stages["3"].eval()
        >>> type(stage).__name__, len(stage)
        ('Stage', 3)
        >>> stage(torch.rand(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    grad_checkpointing: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Run the module: (N, C, H, W) -> (N, C', H', W')."""
        for block in self:
            x = _recomputed(block, x) if self.grad_checkpointing and self.training else block(x)
        return x


def recomputes(stages: Iterable[nn.Module]) -> bool:
    """Whether any of these stages recomputes its blocks."""
    return any(getattr(stage, "grad_checkpointing", False) for stage in stages)


def set_recomputing(stages: Mapping[str, nn.Module], recompute: bool) -> None:
    """Switch gradient checkpointing of all stages on or off.

    Raises:
        SenetError: A stage was replaced by a module without this option. Nothing is changed.
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
    if torch.compiler.is_compiling():  # the compiler recomputes values for derivatives, but no statistics
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_restored(block)))


@contextmanager
def _buffers_restored(block: nn.Module) -> Iterator[None]:
    """Use copies of the buffers in the recomputed pass, so that running statistics count each batch once."""
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
