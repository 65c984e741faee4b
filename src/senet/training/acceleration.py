"""Run each norm of a network with the channel attention behind it as one operator while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from senet.errors import SenetError
from senet.fusion import AccelerateReport, accelerate
from senet.ops import choose
from senet.training.recipe import RunOptions

__all__ = ["accelerated", "runs_fused"]


@contextmanager
def accelerated(
    models: Sequence[nn.Module],
    example: Sequence[Any],
    run: RunOptions,
    device: torch.device,
    *,
    devices: int = 1,
    report: Callable[[str], object] = str,
) -> Iterator[None]:
    """Accelerate networks within this context, where this changes the computation (`runs_fused`).

    Networks that `senet.accelerate` can't trace train unchanged, with a line that gives the reason.

    Args:
        models: The network in training and copies of it. Each keeps its modules, parameters and buffers.
        example: All positional arguments of the network.
        run: Options of the execution.
        device: The device of the networks.
        devices: Number of devices that train together.
        report: Called with a line on the first network, if it has fused attention layers or can't be traced.
    """
    made: list[AccelerateReport] = []
    try:
        if runs_fused(run, device, devices=devices):
            try:
                for model in models:
                    made.append(accelerate(model, example))
            except SenetError as error:
                report(f"attention layers run separately from their norms: {error}")
        if made and made[0].fused:
            fused, left = len(made[0].fused), len(made[0].left)
            report(f"{fused} of {fused + left} attention layers run with their norm (--no-accelerate: separately)")
        yield
    finally:
        for one in made:
            one.undo()


def runs_fused(run: RunOptions, device: torch.device, *, devices: int = 1) -> bool:
    """Whether a training uses the operator of `senet.accelerate`.

    The operator needs a CPU and the compiled kernel. Compiled networks and synchronized batch norms compute without it.

    Args:
        run: Options of the execution.
        device: The device of the network.
        devices: Number of devices that train together.
    """
    synchronized = run.sync_bn and devices > 1
    return (
        run.accelerate
        and not run.compile
        and not synchronized
        and device.type == "cpu"
        and choose().library is not None
    )
