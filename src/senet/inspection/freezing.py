"""What `senet.freeze` and `senet.prune` would save, and what it would cost, without changing the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from senet.gates.measuring import agreement_between, drift_between, run
from senet.gates.statistics import GateStatistics

__all__ = ["Freezing", "Step", "try_freezing"]


@dataclass(frozen=True)
class Step:
    """One more gate frozen.

    Attributes:
        block: Path of the attention layer that is frozen in this step.
        params: Parameters saved so far.
        macs: Multiply-accumulates saved so far, for one image.
        drift: How far the outputs have moved, as in `senet.freeze`.
        agreement: Share of the images that keep their class.
    """

    block: str
    params: int
    macs: int
    drift: float
    agreement: float


@dataclass(frozen=True)
class Freezing:
    """Gates replaced by their means over all images, the calmest first, as `senet.prune` does.

    Attributes:
        images: Number of images that drift and agreement are measured on.
        steps: One a gate.
    """

    images: int
    steps: tuple[Step, ...]


def try_freezing(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    statistics: Mapping[str, GateStatistics],
    costs: Mapping[str, tuple[int, int]],
    images: Tensor,
) -> tuple[Freezing, dict[str, float]]:
    """Run a few images with one gate after the other constant.

    Returns:
        The steps, and each gate's drift if it alone is constant.
    """
    before = run(model, [images])
    means = {path: statistics[path].mean for path in layers}
    # A selective kernel's factors weigh its branches: there is no constant that its input could be multiplied by.
    layers = {p: m for p, m in layers.items() if statistics[p].channels in (1, getattr(m, "channels", len(means[p])))}

    def outputs(frozen: Sequence[str]) -> list[Tensor]:
        with _constant({path: layers[path] for path in frozen}, means):
            return run(model, [images])

    alone = {path: drift_between(before, outputs([path])) for path in layers}
    order = sorted(layers, key=lambda path: statistics[path].spread)
    steps, params, macs = [], 0, 0
    for number, path in enumerate(order, 1):
        after = outputs(order[:number])
        params, macs = params + costs[path][0], macs + costs[path][1]
        steps.append(Step(path, params, macs, drift_between(before, after), agreement_between(before, after)))
    return Freezing(len(images), tuple(steps)), alone


@contextmanager
def _constant(layers: Mapping[str, nn.Module], means: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block these layers multiply by constants."""
    with ExitStack() as stack:
        for path, layer in layers.items():

            def rescale(
                _: nn.Module,
                args: tuple[Any, ...],
                kwargs: Mapping[str, Any],
                output: Tensor,
                mean: Tensor = means[path],
            ) -> Tensor:
                factors = mean.to(output.device, output.dtype)
                return next(iter((*args, *kwargs.values()))) * factors.reshape(-1, *(1,) * (output.ndim - 2))

            stack.callback(layer.register_forward_hook(rescale, with_kwargs=True).remove)
        yield
