"""The fraction of a network's time in its attention layers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from senet.nn.modes import evaluation_mode
from senet.profiling.timing import now

__all__ = ["latency"]


def latency(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor, *, runs: int = 7
) -> tuple[float, dict[str, float]]:
    """Time a batch, and each layer in it.

    On an accelerator each layer waits for all others to finish. Shares are then comparable, and the whole is slower
    than usual.

    Args:
        model: The network.
        layers: Path to layer.
        images: (N, C, H, W), on the network's device.
        runs: Number of timed runs after one warm-up. The fastest counts.

    Returns:
        Milliseconds for the batch, and each layer's fraction, 0..1.
    """
    taken: dict[str, float] = {}
    rows: list[tuple[float, dict[str, float]]] = []
    with ExitStack() as stack:
        for path, layer in layers.items():
            timer = _Timer(path, taken, images.device)
            stack.callback(layer.register_forward_pre_hook(timer.start, prepend=True).remove)
            stack.callback(layer.register_forward_hook(timer.stop).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(model))
        for _ in range(runs + 1):
            taken.clear()
            started = now(images.device)
            model(images)
            rows.append((now(images.device) - started, dict(taken)))
    # The fastest run of each counts: other work on the machine slows a long run more often than a short one.
    best = min(whole for whole, _ in rows[1:])
    return 1000 * best, {path: min(parts.get(path, 0.0) for _, parts in rows[1:]) / best for path in layers}


class _Timer:
    def __init__(self, path: str, taken: dict[str, float], device: torch.device) -> None:
        self.path, self.taken, self.device = path, taken, device
        self.started = 0.0

    def start(self, *_: Any) -> None:
        self.started = now(self.device)

    def stop(self, *_: Any) -> None:
        self.taken[self.path] = self.taken.get(self.path, 0.0) + now(self.device) - self.started
