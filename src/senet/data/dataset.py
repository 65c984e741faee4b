"""Samples whose randomness comes from their place alone, and what stands in for one that can't be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from senet.data.images import CorruptImage
from senet.data.randomness import seeded_rng
from senet.data.sampler import Order
from senet.data.sources import Source
from senet.data.transforms import TrainTransform
from senet.errors import DataError

__all__ = ["Batch", "ImageDataset", "RefusedImage", "Sample", "collate"]

POLICIES = ("skip", "raise")

MOST_IN_A_ROW = 1000


class Sample(NamedTuple):
    """One image of a batch to be."""

    image: Tensor
    label: int
    key: tuple[int, int]
    corrupt: list[tuple[str, str]]


class Batch(NamedTuple):
    """What a loader yields; Lightning and `pin_memory` move its tensors.

    Attributes:
        images: (N, C, H, W), as the transform leaves them: float32 in evaluation, uint8 in training, for `Normalise`.
        labels: (N,) int64 class numbers; of the stand-in, where an image couldn't be read.
        indices: (N,) int64 positions in the source that were asked for.
        valid: (N,) bool, False for a stand-in of an image that couldn't be read. Evaluation leaves it out.
        corrupt: (path, reason) of each image that couldn't be read; for `CorruptImageReport.add`.
        key: Epoch and first index, which name the batch; for `Mixing`.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    valid: Tensor
    corrupt: list[tuple[str, str]]
    key: tuple[int, int]


class RefusedImage(DataError):  # noqa: N818 - named as what it is about
    """A corrupt image where none is tolerated.

    A `DataLoader` rebuilds a worker's exception from the text of its traceback; the user's line is its last.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().rsplit(f"{type(self).__name__}: ", 1)[-1])


class ImageDataset(Dataset[Sample]):
    """Transformed images, asked for by `(epoch, index)`.

    What the transform draws from torch's CPU generator depends on (seed, epoch, index) alone, so that a run
    repeats with any number of worker processes and after any interruption; the generator is left as it was.

    With `corrupt="skip"` the next readable image (by index, wrapping around) stands in for one that can't be
    read, so batches keep their shape and all processes of a distributed run keep in step; `Batch.corrupt`
    tells which.

    Args:
        source: The images.
        transform: PIL image -> (C, H, W) tensor. Its randomness must be torch's (all of torchvision's v2 is).
        seed: The run's seed.
        corrupt: `"skip"` or `"raise"`: what happens at an image that can't be read.

    Raises:
        ValueError: Another `corrupt`.
    """

    def __init__(
        self, source: Source, transform: Callable[[Any], Tensor], *, seed: int = 0, corrupt: str = "skip"
    ) -> None:
        if corrupt not in POLICIES:
            raise ValueError(f"corrupt={corrupt!r}; use {' or '.join(map(repr, POLICIES))}")
        self.source = source
        self.transform = transform
        self.seed = seed
        self.corrupt = corrupt
        self.groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """One sample.

        Raises:
            RefusedImage: The image can't be read and `corrupt="raise"`, or a thousand in a row can't.
        """
        epoch, index = key
        corrupt: list[tuple[str, str]] = []
        for step in range(min(len(self), MOST_IN_A_ROW)):
            position = (index + step) % len(self)
            try:
                with seeded_rng("sample", self.seed, epoch, index):
                    return Sample(self._image(position), int(self.source.labels[position]), (epoch, index), corrupt)
            except CorruptImage as error:
                if self.corrupt == "raise":
                    raise RefusedImage(f"corrupt image {error}") from error
                corrupt.append((error.path, error.reason))
        raise RefusedImage(f"{len(corrupt)} images in a row can't be read, the first: {': '.join(corrupt[0])}")

    @property
    def order(self) -> Order | None:
        """The order that the source is best read in; None where any is as good."""
        return getattr(self.source, "order", None)

    def _image(self, position: int) -> Tensor:
        """One image, decoded by the transform where that needs a part of it only."""
        if isinstance(self.transform, TrainTransform):
            stored = self.source.stored(position)
            if stored is not None:
                return self.transform.decoded(stored)
        return self.transform(self.source[position][0])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """See `collate`."""
        return collate(samples)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch (in shared memory, within a worker process)."""
    return Batch(
        images=default_collate([sample.image for sample in samples]),
        labels=torch.tensor([sample.label for sample in samples]),
        indices=torch.tensor([sample.key[1] for sample in samples]),
        valid=torch.tensor([not sample.corrupt for sample in samples]),
        corrupt=[issue for sample in samples for issue in sample.corrupt],
        key=samples[0].key,
    )
