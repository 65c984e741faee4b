"""Running statistics of a batch norm in one kernel, without reading the number of batches on the host."""

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from senet.ops.triton.plan import launch

__all__ = ["update_running"]

BLOCK: Final = 256


def update_running(mean: Tensor, var: Tensor, batches: Tensor | None, statistics: Tensor, momentum: float) -> None:
    """Move the running statistics towards those of the batch, in place.

    Args:
        mean: (C,), float32.
        var: (C,), float32.
        batches: The number of batches, (), already with this one. Their plain average is kept. None to use `momentum`.
        statistics: Mean and unbiased variance of the batch, (2, C).
        momentum: The weight of this batch, without `batches`.
    """
    channels = len(mean)
    launch(
        _update, -(-channels // BLOCK), mean, mean, var, batches, statistics, float(momentum), channels, BLOCK_C=BLOCK
    )  # fmt: skip


@triton.jit(do_not_specialize=["momentum", "channels"])
def _update(
    mean,
    var,
    batches,
    statistics,
    momentum,
    channels,
    BLOCK_C: tl.constexpr,
) -> None:
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    weight = momentum
    if batches is not None:
        weight = 1.0 / tl.load(batches).to(tl.float32)
    for_mean = tl.load(statistics + c, mask=inside, other=0.0)
    for_var = tl.load(statistics + channels + c, mask=inside, other=0.0)
    old_mean = tl.load(mean + c, mask=inside, other=0.0)
    old_var = tl.load(var + c, mask=inside, other=0.0)
    tl.store(mean + c, old_mean * (1 - weight) + for_mean * weight, mask=inside)
    tl.store(var + c, old_var * (1 - weight) + for_var * weight, mask=inside)
