"""Find a learning rate: train a few steps while it rises, and look where the loss falls fastest."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import lightning as L
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from senet.console import line_printer, plain_console
from senet.errors import SenetError
from senet.inference.backends import cuda_backends
from senet.tasks import task_named
from senet.training.acceleration import accelerated
from senet.training.cluster import launched
from senet.training.failures import is_out_of_memory
from senet.training.fit import (
    check_annotations,
    make_loaders,
    make_module,
    make_trainer,
    prepare_network,
    quiet_lightning,
)
from senet.training.freezing import Freezing, fine_tunes
from senet.training.interruption import Interrupted, StopRequest
from senet.training.layers import find_layers
from senet.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from senet.training.job import Job

__all__ = ["LearningRateRange", "find_learning_rate", "steepest"]

DIVERGED: Final = 4.0
"""The test ends once the smoothed loss is this many times its minimum."""

SMOOTHING: Final = 0.9
"""Decay of the loss that decides about the end."""

WIDTH: Final = 1 / 30
"""Width of the smoothed curve's Gaussian, as a fraction of the steps."""

FEWEST: Final = 10
"""Steps."""


@dataclass(frozen=True)
class LearningRateRange:
    """The losses of a learning rate range test.

    Attributes:
        rates: Learning rate of each step, ascending.
        losses: Loss of each step.
        smoothed: The losses, smoothed.
        suggestion: Learning rate at which the smoothed loss falls fastest, None if it never falls.
        diverged: Whether the test ended early since the loss rose.

    Example:
        >>> from senet.training import LearningRateRange
        >>> found = LearningRateRange((0.01, 0.1), (2.3, 1.9), (2.3, 2.0), suggestion=0.1, diverged=False)
        >>> found.to_dict()["suggestion"]
        0.1
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    diverged: bool

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return {
            "suggestion": self.suggestion,
            "diverged": self.diverged,
            "rates": list(self.rates),
            "losses": list(self.losses),
            "smoothed": list(self.smoothed),
        }


def find_learning_rate(
    job: Job,
    *,
    start: float = 1e-6,
    end: float = 10.0,
    steps: int = 100,
    console: Console | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LearningRateRange:
    """Run a learning rate range test for a training, with its network, data, recipe and precision.

    The learning rate rises by the same factor in each step, from `start` to `end`. The test ends early if the loss
    becomes non-finite or rises to four times its minimum. It trains a network of its own and writes no file. Schedule,
    warm-up, averaged weights and unfreezing don't take part.

    Args:
        job: The training.
        start: First learning rate.
        end: Last learning rate.
        steps: Number of optimizer steps.
        console: Console for messages, or None for standard error.
        progress: Called with the numbers of steps done and in all.

    Raises:
        SenetError: An option is invalid, or the job asks for several devices.
        Interrupted: The user pressed Ctrl-C.

    Example:
        >>> import contextlib
        >>> from senet.training import DataOptions, Job, ModelInitialization, RunOptions
        >>> from senet.training import find_learning_rate, recipe_named
        >>> job = Job(
        ...     source=DataOptions(data="digits", limit=128),
        ...     network=ModelInitialization(model="se_cifar_resnet20", options={"depth": 1}),
        ...     recipe=recipe_named("digits"),
        ...     run=RunOptions(workers=0),
        ... )
        >>> with contextlib.redirect_stderr(None):
        ...     found = find_learning_rate(job, steps=20)
        >>> len(found.rates) <= 20, found.rates[0]
        (True, 1e-06)

    Source: Smith 2017 (arXiv 1506.01186), section 3.3.
    """
    if not 0 < start < end < math.inf:
        raise SenetError(f"start={start:g} must be positive and below end={end:g}")
    if steps < FEWEST:
        raise SenetError(f"steps={steps} must be at least {FEWEST}")
    if job.run.devices > 1 or job.run.nodes > 1 or launched() is not None:
        raise SenetError("the learning rate finder runs on one device; --grad-accumulation makes room for its batches")
    say = line_printer(console or plain_console())
    test = _RangeTest(start, end, steps, progress)
    with (
        torch.random.fork_rng(),
        tempfile.TemporaryDirectory() as nowhere,
        StopRequest(lambda _: say("stopping after this step (again to stop at once) ...")) as test.stop,
    ):
        _train(job, test, Path(nowhere), say)
    return test.result()


def _train(job: Job, test: _RangeTest, folder: Path, say: Callable[[str], object]) -> None:
    """Run the test's steps as a training would."""
    data = job.open_data()
    network = job.build(data)
    teacher = job.build_teacher(data, network)
    task, run = task_named(network.task), replace(job.run, devices=1, strategy="auto")
    task.check_recipe(job.recipe)
    task.check_network(network.model, network.name, network.preprocessing, data.classes)
    check_annotations(data, say)
    recipe = replace(job.recipe, schedule="constant", warmup_epochs=0.0, ema_decay=0.0, unfreeze_after=0, patience=0)
    prepare_network(network, recipe, run)
    layers = find_layers(network.model, task.example(network.preprocessing)) if fine_tunes(recipe) else None
    freezing = Freezing(network.model, layers, recipe) if layers is not None else None
    with quiet_lightning():
        trainer = make_trainer(
            recipe, run, folder, [test], [], max_steps=test.steps, limit_val_batches=0, enable_checkpointing=False
        )
        trainer.fit_loop.max_epochs = -1  # the number of steps decides
        train_images, _ = make_loaders(task, network, data, recipe, run, trainer)
        module = make_module(network, data, recipe, run, trainer, layers=layers, freezing=freezing, teacher=teacher)
        acceleration = accelerated(
            [module.model],
            task.example(network.preprocessing),
            run,
            trainer.strategy.root_device,
            devices=1,
            report=str,
        )
        backends = cuda_backends(
            trainer.strategy.root_device, autotune=task.has_fixed_size and not run.deterministic, tf32=run.tf32
        )
        try:
            with acceleration, backends:
                trainer.fit(module, train_images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise SenetError(
                f"out of memory with batches of {recipe.batch_size}; use --grad-accumulation, --grad-checkpointing, "
                "--precision bf16 or a smaller --batch-size"
            ) from error


class _RangeTest(L.Callback):
    """Raises the learning rate and records the losses."""

    def __init__(
        self, start: float, end: float, steps: int, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self.start, self.end, self.steps, self.progress = start, end, steps, progress
        self.stop: StopRequest | None = None
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.diverged = False
        self._bases: list[float] = []
        self._average = self._lowest = math.nan

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the ratios of the groups' learning rates."""
        recipe: Recipe = pl_module.recipe  # type: ignore[assignment]
        self._bases = [group["lr"] / recipe.lr for group in trainer.optimizers[0].param_groups]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of the next step."""
        for group, base in zip(trainer.optimizers[0].param_groups, self._bases, strict=True):
            group["lr"] = self._rate(trainer.global_step) * base

    def _rate(self, step: int) -> float:
        return self.start * (self.end / self.start) ** (step / (self.steps - 1))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss of a finished optimizer step, and end the test if it has diverged.

        Raises:
            Interrupted: The user asked to stop.
        """
        if trainer.global_step > len(self.losses):
            values = [one.value for one in pl_module.read_losses()]  # type: ignore[operator]
            self.rates.append(self._rate(len(self.losses)))
            self.losses.append(sum(values) / len(values))
            self.diverged = self._has_diverged(self.losses[-1])
            trainer.should_stop = self.diverged
            if self.progress is not None:
                self.progress(len(self.losses), self.steps)
        if self.stop is not None and self.stop.requested:
            raise Interrupted

    def _has_diverged(self, loss: float) -> bool:
        first = not len(self.losses) > 1
        self._average = loss if first else SMOOTHING * self._average + (1 - SMOOTHING) * loss
        self._lowest = self._average if first else min(self._lowest, self._average)
        return not math.isfinite(loss) or (self._lowest > 0 and self._average > DIVERGED * self._lowest)

    def result(self) -> LearningRateRange:
        """Return the curve, without a non-finite loss at its end.

        Raises:
            SenetError: The loss is non-finite from the start.
        """
        count = len(self.losses) - (bool(self.losses) and not math.isfinite(self.losses[-1]))
        if not count:
            raise SenetError(f"the loss is {self.losses[-1] if self.losses else 'missing'} in the first step")
        losses = np.array(self.losses[:count])
        smoothed = gaussian_filter1d(losses, self.steps * WIDTH, mode="nearest")
        return LearningRateRange(
            tuple(self.rates[:count]),
            tuple(losses.tolist()),
            tuple(smoothed.tolist()),
            steepest(self.rates[:count], smoothed.tolist()),
            self.diverged,
        )


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """Return the learning rate, in two digits, at which the loss falls fastest before its minimum.

    Args:
        rates: Learning rates, ascending by a constant factor.
        losses: Smoothed loss at each.

    Returns:
        The learning rate, None if the loss never falls.
    """
    lowest = int(np.argmin(losses))
    if lowest < 1:
        return None
    slopes = np.gradient(np.array(losses), np.log(np.array(rates)))[: lowest + 1]
    at = int(np.argmin(slopes))
    return float(f"{rates[at]:.2g}") if slopes[at] < 0 else None
