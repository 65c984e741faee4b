"""Measure gates over data: the mean factor of each channel, and its variation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet.errors import SenetError
from senet.gates.recording import gated_layers, rescales, watching
from senet.gates.statistics import GateStatistics
from senet.nn import Attention
from senet.nn.modes import evaluation_mode, uncompiled
from senet.nn.precision import in_float64

__all__ = ["agreement_between", "drift_between", "gates", "images_of", "measure", "measuring", "run"]


def gates(model: nn.Module) -> dict[str, nn.Module]:
    """Return the attention layers by path, of this package and other libraries. Of nested layers it is the outermost.

    Constants are left out, and so are layers that compute more than `x * gate(x)` and can't become constants.
    """
    return {path: layer for path, layer in gated_layers(model).items() if rescales(layer)}


def measure(model: nn.Module, batches: Sequence[Tensor]) -> tuple[dict[str, GateStatistics], list[Tensor]]:
    """Run the batches once, and return the statistics of each gate and the outputs.

    Raises:
        SenetError: A gate doesn't run, or outputs are non-finite, so drift can't be measured.
    """
    layers = gates(model)
    found: dict[str, GateStatistics] = {}

    def add(path: str, gate: Tensor, images: int) -> None:
        layer = layers[path]
        channels = layer.channels if isinstance(layer, Attention) else gate.shape[1]
        found.setdefault(path, GateStatistics(channels)).add(gate, images)

    with watching(layers, add):
        outputs = run(model, batches)
    not_run = [path for path in layers if path not in found]
    if not_run:
        raise SenetError(f"{not_run[0]} doesn't run on these batches, so its gate can't be measured")
    if not all(output.isfinite().all() for output in outputs):
        non_finite = [path for path, statistics in found.items() if not statistics.mean.isfinite().all()]
        where = f"; the first non-finite gate is {non_finite[0]}" if non_finite else ""
        raise SenetError(f"{type(model).__name__} has non-finite outputs on these batches{where}")
    return found, outputs


def run(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """Return the outputs, one tensor (images, values) per batch. Several outputs are concatenated.

    Each call starts with the same random seed.
    """
    with measuring(model):
        torch.manual_seed(0)
        return [_flat(model(batch)) for batch in batches]


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Evaluate the network uncompiled within the block, and restore modes and random generators after it."""
    device = next(model.parameters(), torch.zeros(())).device
    kind, numbers = ("cuda", []) if device.type == "cpu" else (device.type, [device.index or 0])
    with (
        torch.no_grad(),
        evaluation_mode(model),
        uncompiled(),
        torch.random.fork_rng(numbers, device_type=kind),
    ):
        yield


def _flat(output: Any) -> Tensor:
    tensors = [t for t in tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    return torch.cat([in_float64(t).flatten(1) if t.ndim > 1 else in_float64(t)[None] for t in tensors], 1)


def images_of(model: nn.Module, batches: Iterable[Any]) -> list[Tensor]:
    """Return the images of batches, on the model's device. A batch may be (images, ...), as from a loader.

    Raises:
        SenetError: There are no batches, or one isn't a tensor.
    """
    like = next(model.parameters(), torch.zeros(()))
    found = []
    for batch in batches:
        images = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(images, Tensor) or images.ndim < 3:
            raise SenetError(f"a batch is {type(batch).__name__}; it must be images (N, C, *spatial), or (images, ...)")
        found.append(images.to(like.device, like.dtype))
    if not found:
        raise SenetError("no batches: gates are measured on images, so pass at least one batch")
    return found


def drift_between(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the root mean square of the change over that of the outputs. Infinite if it isn't defined."""
    change = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    whole = sum(float(b.square().sum()) for b in before)
    if change == 0:
        return 0.0
    return (change / whole) ** 0.5 if whole and math.isfinite(change) else math.inf


def agreement_between(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Return the fraction of the images whose largest output is the same."""
    pairs = list(zip(before, after, strict=True))
    same = sum(int((b.argmax(1) == a.argmax(1)).sum()) for b, a in pairs)
    return same / sum(len(b) for b, _ in pairs)
