"""Measure gates over data: how each channel is rescaled on average, and how much that varies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet.errors import SenetError
from senet.gates.recording import gated_layers, watching
from senet.gates.statistics import GateStatistics
from senet.nn import Attention, SelectiveKernel
from senet.nn.modes import evaluation_mode, uncompiled

__all__ = ["agreement_between", "drift_between", "gates", "images_of", "measure", "measuring", "run"]


def gates(model: nn.Module) -> dict[str, Attention]:
    """Path to attention layer of this package, the outermost where they nest.

    Without constants, and without selective kernels, which compute new features: no constant can stand for them.
    """
    found = gated_layers(model).items()
    return {path: m for path, m in found if isinstance(m, Attention) and not isinstance(m, SelectiveKernel)}


def measure(model: nn.Module, batches: Sequence[Tensor]) -> tuple[dict[str, GateStatistics], list[Tensor]]:
    """Run the batches once: each gate's statistics, and the outputs.

    Raises:
        SenetError: A gate doesn't run, or outputs are NaN or infinite, so that no drift can be measured.
    """
    layers = gates(model)
    found = {path: GateStatistics(layer.channels) for path, layer in layers.items()}
    with watching(layers, lambda path, gate, images: found[path].add(gate, images)):
        outputs = run(model, batches)
    silent = [path for path, statistics in found.items() if statistics.count == 0]
    if silent:
        raise SenetError(f"{silent[0]} doesn't run on these batches, so its gate can't be measured")
    if not all(output.isfinite().all() for output in outputs):
        culprits = [path for path, statistics in found.items() if not statistics.mean.isfinite().all()]
        where = f"; the gate of {culprits[0]} is the first" if culprits else ""
        raise SenetError(f"{type(model).__name__} gives NaN or infinite outputs on these batches{where}")
    return found, outputs


def run(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """The outputs, one tensor (images, values) a batch; several outputs side by side.

    A network that draws random numbers draws the same in each call.
    """
    with measuring(model):
        torch.manual_seed(0)
        return [_flat(model(batch)) for batch in batches]


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Within the block the network evaluates, module by module; modes and random generators are given back."""
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
    return torch.cat(
        [t.detach().double().cpu().flatten(1) if t.ndim > 1 else t[None].double().cpu() for t in tensors], 1
    )


def images_of(model: nn.Module, batches: Iterable[Any]) -> list[Tensor]:
    """The images of some batches, on the model's device; a batch may be (images, ...) as a loader gives it.

    Raises:
        SenetError: There is none, or one is no tensor.
    """
    like = next(model.parameters(), torch.zeros(()))
    found = []
    for batch in batches:
        images = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(images, Tensor) or images.ndim < 3:
            raise SenetError(f"a batch is {type(batch).__name__}; give images (N, C, space), or (images, ...)")
        found.append(images.to(like.device, like.dtype))
    if not found:
        raise SenetError("no batches: the gates are measured on images, give some")
    return found


def drift_between(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """How far outputs moved: root mean square of the change over that of the outputs; infinite if that is unknown."""
    change = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
    whole = sum(float(b.square().sum()) for b in before)
    if change == 0:
        return 0.0
    return (change / whole) ** 0.5 if whole and math.isfinite(change) else math.inf


def agreement_between(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Share of the images whose largest output is the same."""
    pairs = list(zip(before, after, strict=True))
    same = sum(int((b.argmax(1) == a.argmax(1)).sum()) for b, a in pairs)
    return same / sum(len(b) for b, _ in pairs)
