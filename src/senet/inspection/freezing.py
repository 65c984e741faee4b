"""Savings and cost of `senet.freeze` and `senet.prune`, measured without changing the network."""

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
        macs: Multiply-accumulates (MACs) saved so far, for one image.
        drift: Drift of the outputs, as in `senet.freeze`.
        agreement: Fraction of the images whose predicted class stays the same.
    """

    block: str
    params: int
    macs: int
    drift: float
    agreement: float


@dataclass(frozen=True)
class Freezing:
    """Gates replaced by their means over all images, in the order of increasing spread, as in `senet.prune`.

    Attributes:
        images: Number of images for drift and agreement.
        steps: One for each gate.
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
    """Run a few images while one gate after the other becomes constant.

    Returns:
        The steps, and each gate's drift if it alone is constant.
    """
    before = run(model, [images])
    means = {path: statistics[path].mean for path in layers}
    # A selective kernel's factors weigh its branches: no constant factor of its input can replace them.
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
    """Make these layers multiply by constants within the block."""
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
