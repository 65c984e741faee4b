"""Measure gates over data: how each channel is rescaled on average, and how much that varies."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from senet.errors import SenetError
from senet.nn import Attention, ConstantGate
from senet.surgery.trace import evaluation_mode

__all__ = ["GateStatistics", "gates", "images_of", "layer_cost", "measure", "run"]


@dataclass(eq=False)
class GateStatistics:
    """Streaming mean and variance of one gate, channel by channel, in float64.

    Attributes:
        count: Factors seen a channel: images, times positions where the gate has some.
    """

    channels: int
    count: int = 0
    _mean: Tensor = field(default_factory=lambda: torch.zeros(()), repr=False)
    _squares: Tensor = field(default_factory=lambda: torch.zeros(()), repr=False)

    def add(self, gate: Tensor, images: int) -> None:
        """Count the gate of a batch, (N, C, ...) or broadcast over N."""
        gate = gate.detach().double().cpu()
        factors = gate.expand(images, -1, *gate.shape[2:]).movedim(1, 0).flatten(1)
        new, mean = factors.shape[1], factors.mean(1)
        squares = (factors - mean[:, None]).square().sum(1)
        # Chan et al. 1983: two sets' statistics joined without cancellation.
        total = self.count + new
        step = mean - self._mean
        self._squares = self._squares + squares + step.square() * self.count * new / total
        self._mean = self._mean + step * new / total
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Average factor of each channel, (C,), float64."""
        return self._mean

    @property
    def spread(self) -> float:
        """Standard deviation over the images, root mean square over the channels."""
        return float((self._squares / max(1, self.count)).mean().sqrt())


def gates(model: nn.Module) -> dict[str, Attention]:
    """Path to attention layer, the outermost where they nest, constants left out."""
    found: dict[str, Attention] = {}
    for path, module in model.named_modules():
        if isinstance(module, Attention) and not any(path.startswith(f"{outer}.") for outer in found):
            found[path] = module
    return {path: module for path, module in found.items() if not isinstance(module, ConstantGate)}


def measure(model: nn.Module, batches: Sequence[Tensor]) -> tuple[dict[str, GateStatistics], list[Tensor]]:
    """Run the batches once: each gate's statistics, and the outputs."""
    found = {path: GateStatistics(layer.channels) for path, layer in gates(model).items()}
    handles = []
    for path, layer in gates(model).items():
        statistics = found[path]

        def count(module: nn.Module, args: Any, statistics: GateStatistics = statistics) -> None:
            assert isinstance(module, Attention)
            statistics.add(module.gate(args[0]), len(args[0]))

        handles.append(layer.register_forward_pre_hook(count))
    try:
        outputs = run(model, batches)
    finally:
        for handle in handles:
            handle.remove()
    silent = [path for path, statistics in found.items() if statistics.count == 0]
    if silent:
        raise SenetError(f"{silent[0]} doesn't run on these batches, so its gate can't be measured")
    return found, outputs


def run(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """The outputs, one tensor (images, values) a batch; several outputs side by side."""
    with torch.no_grad(), evaluation_mode(model):
        return [_flat(model(batch)) for batch in batches]


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


def layer_cost(layer: nn.Module, shape: Sequence[int]) -> tuple[int, int]:
    """Parameters of a layer, and its multiply-accumulates for one map of the shape (any, C, *space)."""
    bare = copy.deepcopy(layer).eval().to("meta")
    like = next(bare.parameters(), torch.zeros(()))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bare(torch.empty(1, *shape[1:], dtype=like.dtype, device="meta"))
    return sum(p.numel() for p in layer.parameters()), counter.get_total_flops() // 2
