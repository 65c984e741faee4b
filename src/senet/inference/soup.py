"""Averaged networks on data: running statistics of their norms, their metric, and greedy model soups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from senet.data import Data, ImageDataset, Subset, eval_loader, eval_transform, subsample
from senet.errors import DataError
from senet.inference.device import running
from senet.inference.task_evaluation import evaluate_task, metric_of
from senet.tasks import load_model, task_named
from senet.tasks.dense import DenseTask
from senet.weights.average import average_checkpoints
from senet.zoo import LoadedModel

__all__ = ["Soup", "average_models", "greedy_soup", "measure", "recompute_statistics"]

_Norm = nn.modules.batchnorm._BatchNorm

Prepare = Callable[[LoadedModel], object]
"""Called with each averaged network, before it is measured."""


@dataclass(frozen=True)
class Soup:
    """A greedy model soup.

    Attributes:
        loaded: The averaged network.
        chosen: The averaged checkpoints, the best one first.
        metrics: Each checkpoint to its own metric.
        metric: Metric of the average.
    """

    loaded: LoadedModel
    chosen: tuple[Path, ...]
    metrics: dict[Path, float]
    metric: float


def average_models(paths: Sequence[Path], *, factory: str | None = None) -> LoadedModel:
    """Return the network with the averaged weights of checkpoints, see `senet.weights.average_checkpoints`.

    Args:
        paths: Two checkpoints or more.
        factory: `module:function` of a network of your own.

    Raises:
        CheckpointError: They can't be averaged.
    """
    tensors, metadata = average_checkpoints(paths)
    loaded = load_model(paths[-1], factory=factory)
    loaded.model.load_state_dict(tensors)
    return replace(loaded, metadata=metadata)


def greedy_soup(
    paths: Sequence[Path],
    measured: Callable[[LoadedModel], float],
    *,
    factory: str | None = None,
    prepare: Prepare | None = None,
    report: Callable[[str], object] = str,
) -> Soup:
    """Average checkpoints one by one, the best first, and keep each that doesn't lower the metric.

    Args:
        paths: Checkpoints of one network.
        measured: Returns the metric of a network on held-out images. Higher is better.
        factory: `module:function` of a network of your own.
        prepare: Called with each average, such as `recompute_statistics`.
        report: Called with a line for each checkpoint.

    Raises:
        CheckpointError: They can't be averaged.

    Source: Wortsman et al. 2022 (arXiv 2203.05482), recipe 1.
    """
    average_checkpoints(paths)  # refuses different networks before anything is measured
    alone: dict[Path, float] = {}
    for path in paths:
        alone[path] = measured(load_model(path, factory=factory))
        report(f"{path}: {alone[path]:.2%}")
    ranked = sorted(alone, key=lambda path: -alone[path])
    chosen, best = ranked[:1], load_model(ranked[0], factory=factory)
    metric = alone[ranked[0]]
    for path in ranked[1:]:
        candidate = average_models([*chosen, path], factory=factory)
        if prepare is not None:
            prepare(candidate)
        found = measured(candidate)
        kept = found >= metric
        report(f"{'with' if kept else 'without'} {path}: {found:.2%}")
        if kept:
            chosen, best, metric = [*chosen, path], candidate, found
    return Soup(best, tuple(chosen), alone, metric)


def measure(loaded: LoadedModel, data: Data, metric: str, *, progress: Any = None, **settings: Any) -> float:
    """Return a metric on the validation images.

    Args:
        loaded: The network.
        data: The data.
        metric: Key of a metric of the network's task.
        progress: Called with the numbers of images done and in all.
        **settings: Further arguments of the task's evaluation.
    """
    return metric_of(evaluate_task(loaded, data.val, data.classes, progress=progress, **settings), metric)


def recompute_statistics(
    loaded: LoadedModel,
    data: Data,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Recompute the running statistics of a network's batch norms on training images, in place.

    Averaged weights change the activations, so the average of running statistics no longer fits them. As
    `torch.optim.swa_utils.update_bn`, it takes the mean over all batches. Only norms are in training mode, so dropout
    is off. The images are those of evaluation, without augmentation, in a fixed random order. An incomplete last
    batch is left out.

    Args:
        loaded: The network.
        data: The data.
        limit: Largest number of images, or None for all.
        batch_size: Images in a batch.
        workers: Processes that decode. None chooses.
        progress: Called with the numbers of images done and in all.

    Returns:
        The number of norms. With 0, no image is read.

    Raises:
        DataError: There are fewer than two training images.

    Source: Izmailov et al. 2018 (arXiv 1803.05407), section 3.2.
    """
    model = loaded.model
    norms = [module for module in model.modules() if isinstance(module, _Norm) and module.track_running_stats]
    if not norms:
        return 0
    count = min(len(data.train), limit or len(data.train))
    if count < 2:
        raise DataError(f"running statistics need at least two training images, {data.name} has {count}")
    batch_size = min(batch_size, count)
    whole = count // batch_size
    seen = 0
    with running(model, "32") as device, _only_norms_train(norms):
        for number, (images, run) in enumerate(_batches(loaded, data, count, batch_size, workers)):
            if number == whole:
                break
            run([image.to(device) for image in images])
            seen += len(images)
            if progress is not None:
                progress(seen, whole * batch_size)
    return len(norms)


Run = Callable[[list[Tensor]], object]


def _batches(
    loaded: LoadedModel, data: Data, count: int, batch_size: int, workers: int | None
) -> Iterator[tuple[Sequence[Tensor], Run]]:
    """Yield batches of training images, each with the call of the network."""
    task = task_named(loaded.metadata.task)
    if isinstance(task, DenseTask):
        source: Any = subsample(data.train, count)
        samples: Any = task.evaluated(source, loaded.preprocessing)

        def run(images: list[Tensor]) -> object:
            return task.predictions(loaded.model, images, [(image.shape[1], image.shape[2]) for image in images])
    else:
        order = np.random.RandomState(0).permutation(len(data.train))[:count]
        samples = ImageDataset(Subset(data.train, order), eval_transform(loaded.preprocessing))

        def run(images: list[Tensor]) -> object:
            return loaded.model(torch.stack(images).contiguous(memory_format=torch.channels_last))

    for batch in eval_loader(samples, batch_size=batch_size, workers=workers):
        yield batch.images, run


@contextmanager
def _only_norms_train(norms: Sequence[Any]) -> Iterator[None]:
    """Put norms into training mode with statistics from zero, each batch weighing the same."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
