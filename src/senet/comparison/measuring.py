"""The cost of each network of a comparison: counted, and timed in turns with its baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from senet.comparison.plan import Comparison
from senet.comparison.variant import Variant, errors_named
from senet.data import train_loader
from senet.inference.backends import cuda_backends
from senet.inference.device import DTYPES, default_device
from senet.profiling import Timing, cost, saved_bytes, time_interleaved
from senet.tasks import task_named
from senet.training.acceleration import accelerated
from senet.training.model_initialization import SCRATCH
from senet.training.recipe import Recipe, RunOptions

if TYPE_CHECKING:
    from senet.data import Data

__all__ = ["TrainingCost", "step_batch", "training_costs"]

LARGEST_ON_CPU = 16
"""Largest number of images of a timed training step on a CPU: typical, and small enough for any machine."""


@dataclass(frozen=True)
class TrainingCost:
    """The cost of one network.

    Attributes:
        params: Number of learnable parameters.
        macs: MACs for one image.
        saved_mb: Megabytes (10^6 bytes) per image that a training step saves for its backward pass.
        latency_ms: Median inference time of one image in milliseconds.
        latency_ratio: Latency relative to the baseline's, median over the rounds. 1 for the baseline itself.
        step_ms: Median time of forward and backward of `batch` images in milliseconds.
        step_ratio: Time of the step relative to the baseline's, median over the rounds.
        batch: Number of images of the step.
        rounds: Number of timed steps.
    """

    params: int
    macs: int
    saved_mb: float
    latency_ms: float | None = None
    latency_ratio: float | None = None
    step_ms: float | None = None
    step_ratio: float | None = None
    batch: int = 0
    rounds: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def training_costs(comparison: Comparison, data: Data, *, seconds: float) -> dict[str, TrainingCost]:
    """Measure the cost of each variant, by name.

    Args:
        comparison: The comparison. Its networks are measured with random weights.
        data: Data for the images of a training step.
        seconds: Seconds for timing each group of compared networks. 0 only counts.

    Raises:
        SenetError: A network can't be built for the data. The message names the variant.
    """
    found: dict[str, TrainingCost] = {}
    for base in comparison.variants:
        if base.against:
            continue
        group = [base, *(other for other in comparison.variants if other.against == base.name)]
        found |= _group(comparison, group, data, seconds)
    return {variant.name: found[variant.name] for variant in comparison.variants}


def step_batch(recipe: Recipe, run: RunOptions, images: int, device: torch.device) -> int:
    """Return the number of images of a timed training step.

    On an accelerator this is the micro-batch of one device in the training itself. With fewer images, the launches of
    the kernels would take longer than their work.

    Args:
        recipe: Hyperparameters of the training.
        run: Options of its execution.
        images: Number of training images.
        device: The device of the timing.
    """
    on_cpu = device.type == "cpu"
    devices = run.nodes * (run.devices or (1 if on_cpu else torch.accelerator.device_count()))
    share = max(1, min(recipe.batch_size, images) // (devices * recipe.grad_accumulation))
    return min(share, LARGEST_ON_CPU) if on_cpu else share


def _group(comparison: Comparison, group: list[Variant], data: Data, seconds: float) -> dict[str, TrainingCost]:
    networks, found = {}, {}
    with ExitStack() as stack:
        for variant in group:
            with errors_named(variant.name):
                networks[variant.name] = _Network(comparison, variant, data)
                stack.enter_context(networks[variant.name].as_trained())
        for name, network in networks.items():
            with errors_named(name):
                found[name] = network.counted()
        if not seconds:
            return found
        device = next(iter(networks.values())).device

        def timed(of: Callable[[_Network], Callable[[], None]]) -> dict[str, Timing]:
            runs = {name: of(network) for name, network in networks.items()}
            return time_interleaved(runs, seconds=seconds / 2, device=device)

        latency, step = timed(lambda network: network.infer), timed(lambda network: network.step)
    return {
        name: replace(
            cost,
            latency_ms=latency[name].ms,
            latency_ratio=latency[name].ratio,
            step_ms=step[name].ms,
            step_ratio=step[name].ratio,
            batch=networks[name].batch,
            rounds=step[name].rounds,
        )
        for name, cost in found.items()
    }


class _Network:
    """An untrained network with an image and a training batch, ready to be timed."""

    def __init__(self, comparison: Comparison, variant: Variant, data: Data) -> None:
        job, run = comparison.job(variant, comparison.seeds[0]), comparison.run
        self.run = run
        data = job.open_data(data)
        built = replace(job, network=replace(job.network, weights=SCRATCH)).build(data)
        self.device, self.dtype = default_device(), DTYPES[run.precision]
        self.layout = torch.channels_last if run.channels_last else torch.contiguous_format
        self.model: nn.Module = built.model.to(self.device).to(memory_format=self.layout)
        self.size = (built.preprocessing.in_channels, *built.preprocessing.size)
        task = task_named(built.task)
        self.autotune = task.has_fixed_size and not run.deterministic
        images, _ = task.datasets(data, built.preprocessing, job.recipe)
        self.batch = step_batch(job.recipe, run, len(images), self.device)
        batch = next(iter(train_loader(images, batch_size=self.batch, workers=0)))
        self.train_metrics = tree_map_only(Tensor, lambda tensor: tensor.to(self.device), batch)
        self.objective = task.objective(
            data.classes, job.recipe, preprocessing=built.preprocessing, channels_last=run.channels_last
        ).to(self.device)
        generator = torch.Generator().manual_seed(0)
        self.example = tree_map_only(
            Tensor,
            lambda tensor: self._placed(torch.rand(tensor.shape, generator=generator)),
            task.example(built.preprocessing),
        )

    @contextmanager
    def as_trained(self) -> Iterator[None]:
        """Compute within this context as in a training on one device."""
        backends = cuda_backends(self.device, autotune=self.autotune, tf32=self.run.tf32)
        with backends, accelerated([self.model], self.example, self.run, self.device):
            yield

    def counted(self) -> TrainingCost:
        image = self.example[0]
        whole = cost(self.model, self.size, example_inputs=None if isinstance(image, Tensor) else self.example)
        saved = saved_bytes(self.model, self.train_metrics, run=self._learn)
        return TrainingCost(whole.params, whole.macs, saved / self.batch / 1e6)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def _learn(self, model: nn.Module, batch: Any) -> Tensor:
        with self._precision():
            return self.objective.training_step(model, batch)["loss"]

    def infer(self) -> None:
        self.model.eval()
        with torch.inference_mode(), self._precision():
            self.model(*self.example)

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, memory_format=self.layout if tensor.ndim == 4 else torch.preserve_format)

    def step(self) -> None:
        self.model.train()
        self._learn(self.model, self.train_metrics).backward()
        self.model.zero_grad(set_to_none=True)
