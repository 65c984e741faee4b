"""Accuracy at other image sizes than in training, and the shift of the squeeze.

Attention depends on an average over the feature map. At another size, the average is over more or fewer positions and
over objects of another scale. The statistic shifts, and the gate gets values outside its training distribution.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from senet.errors import SenetError
from senet.gates.recording import gated_layers
from senet.inference import evaluate
from senet.nn import SqueezeExcite
from senet.nn.precision import in_float64
from senet.training.folder import LAST, write_json
from senet.weights.files import sha256
from senet.zoo import is_code, load_model

if TYPE_CHECKING:
    from senet.comparison.plan import Run
    from senet.data import Data

__all__ = ["SIZES", "at_sizes", "shift", "squeezed"]

SIZES = "sizes.json"
"""File with a run's results at other sizes. It is computed again if the weights have changed."""


class Moments:
    """Mean and variance of each channel over images, accumulated over batches."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Add values (N, C)."""
        values = in_float64(values)
        self.count += len(values)
        self.total = self.total + values.sum(0)
        self.squares = self.squares + values.square().sum(0)

    @property
    def mean(self) -> Tensor:
        """Mean (C,) over the images."""
        return torch.as_tensor(self.total) / self.count

    @property
    def sd(self) -> Tensor:
        """Standard deviation (C,) over the images."""
        return (torch.as_tensor(self.squares) / self.count - self.mean.square()).clamp_min(0).sqrt()


@contextmanager
def squeezed(model: nn.Module) -> Iterator[dict[str, Moments]]:
    """Collect the output of each attention layer's squeeze within this context.

    For a layer without a squeeze, the spatial mean of its input is collected.

    Yields:
        Path of the layer to the moments so far, empty for a network without attention.
    """
    found: dict[str, Moments] = {}
    with ExitStack() as stack:
        for path, layer in gated_layers(model).items():
            found[path] = Moments()
            stack.callback(layer.register_forward_pre_hook(_collector(found[path])).remove)
        yield found


def _collector(moments: Moments) -> Any:
    def hook(layer: nn.Module, args: Any) -> None:
        x = args[0] if isinstance(args[0], Tensor) else torch.cat(tuple(args[0]), 1)
        statistic = layer.squeeze(x) if isinstance(layer, SqueezeExcite) else x
        moments.add(statistic.float().flatten(2).mean(2) if statistic.ndim > 2 else statistic)

    return hook


def shift(there: Moments, here: Moments) -> float:
    """Return the mean over the channels of |mean there - mean here|, in standard deviations here.

    Constant channels are skipped. The result is 0 if all are constant.
    """
    varies = here.sd > 1e-12
    if not varies.any():
        return 0.0
    return float(((there.mean - here.mean).abs()[varies] / here.sd[varies]).mean())


def at_sizes(training_run: Run, data: Data, sizes: Sequence[int]) -> dict[str, Any]:
    """Measure the accuracy of a finished run's last weights at its own and other sizes, and each block's shift.

    Returns:
        `{"train_size": 32, "top1": {"32": 0.91, "40": 0.88}, "shift": {"40": {"stages.2.0.se": 0.3}}}`.

    Raises:
        SenetError: The network can't take that size.
    """
    checkpoint, kept = training_run.folder / LAST, training_run.folder / SIZES
    digest = sha256(checkpoint)
    found = _read(kept, digest)
    loaded = load_model(
        checkpoint, factory=training_run.job.network.model if is_code(training_run.job.network.model) else None
    )
    own = loaded.preprocessing.size
    wanted = [_size_name(own), *(str(size) for size in sizes if (size, size) != own)]
    if all(size in found["top1"] for size in wanted):
        return found
    moments: dict[str, dict[str, Moments]] = {}
    for size in wanted:
        pixels = own if size == wanted[0] else (int(size), int(size))
        other = replace(loaded, preprocessing=replace(loaded.preprocessing, size=pixels))
        with squeezed(loaded.model) as moments[size]:
            found["top1"][size] = _accuracy(other, training_run, data, size)
    for size in wanted[1:]:
        blocks = moments[size].items()
        found["shift"][size] = {path: shift(there, moments[wanted[0]][path]) for path, there in blocks}
    found |= {"train_size": wanted[0], "sha256": digest}
    write_json(training_run.folder, SIZES, found)
    return found


def _accuracy(loaded: Any, training_run: Run, data: Data, size: str) -> float:
    workers = training_run.job.run.workers if training_run.job.run.workers >= 0 else None
    precision = training_run.job.run.precision
    try:
        return evaluate(loaded, data.val, data.classes, workers=workers, precision=precision).top1
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise SenetError(
            f"--test-sizes {size}: {training_run.variant} can't take images of that size: {reason}"
        ) from error


def _size_name(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _read(path: Path, digest: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"top1": {}, "shift": {}}
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return empty
    return there if there.get("sha256") == digest else empty
