"""Samples whose randomness depends on (seed, epoch, index) alone, with stand-ins for corrupt images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from senet.data.image_errors import CorruptImage, UnsuitableImage
from senet.data.inputs import transformed
from senet.data.labels import target_of
from senet.data.listing import whole
from senet.data.randomness import seeded_rng
from senet.data.sampler import Order
from senet.data.sources import Source
from senet.errors import DataError

__all__ = ["Batch", "ImageDataset", "RefusedImage", "Sample", "collate"]

POLICIES = ("skip", "raise")

MAX_CONSECUTIVE_CORRUPT = 1000


class Sample(NamedTuple):
    """One sample of a batch."""

    image: Tensor
    label: int | Tensor
    key: tuple[int, int]
    corrupt: list[tuple[str, str]]


class Batch(NamedTuple):
    """One batch of a classification loader. Lightning and `pin_memory` move its tensors.

    Attributes:
        images: (N, C, H, W) as the transform leaves them: float32 in evaluation, uint8 in training, for `Normalise`.
        labels: (N,) int64 class numbers, or (N, classes) float32 of 0 and 1 for multi-label images. A stand-in keeps
            its own label.
        indices: (N,) int64 requested positions in the source.
        valid: (N,) bool, False for the stand-in of a corrupt image. Evaluation leaves stand-ins out.
        corrupt: (path, reason) of each corrupt image.
        key: Epoch and first index, which identify the batch, for `Mixing`.

    Example:
        >>> from senet.data import ImageDataset, eval_loader, eval_transform, open_data
        >>> data = open_data("digits")
        >>> dataset = ImageDataset(data.val, eval_transform(data.default_preprocessing))
        >>> batch = next(iter(eval_loader(dataset, batch_size=4, workers=0)))
        >>> batch.images.shape, batch.valid.tolist()
        (torch.Size([4, 1, 16, 16]), [True, True, True, True])
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    valid: Tensor
    corrupt: list[tuple[str, str]]
    key: tuple[int, int]


class RefusedImage(DataError):  # noqa: N818 - named after its subject
    """A corrupt image where none is tolerated.

    A `DataLoader` rebuilds a worker's exception from the text of its traceback. This class keeps the last line of it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().rsplit(f"{type(self).__name__}: ", 1)[-1])


class ImageDataset(Dataset[Sample]):
    """Transformed images, indexed by `(epoch, index)`.

    The transform's draws from torch's CPU generator depend on (seed, epoch, index) alone. A run therefore repeats with
    any number of worker processes and after any interruption. The generator itself is left as it was.

    With `corrupt="skip"` the next readable image (by index, wrapping around) stands in for a corrupt one. Batches keep
    their shape, and all processes of a distributed run stay in step. `Batch.corrupt` lists the corrupt images.

    Args:
        source: The images.
        transform: PIL image -> (C, H, W) tensor. Its randomness must be torch's, as in torchvision's v2 transforms.
        seed: The run's seed.
        corrupt: `"skip"` or `"raise"`: how a corrupt image is handled.
        order: Order of the images in training. None takes the source's.

    Raises:
        ValueError: Another `corrupt`.

    Example:
        >>> from senet.data import ImageDataset, eval_transform, open_data
        >>> data = open_data("digits")
        >>> dataset = ImageDataset(data.train, eval_transform(data.default_preprocessing))
        >>> sample = dataset[0, 5]  # epoch 0, index 5
        >>> sample.image.shape, sample.label
        (torch.Size([1, 16, 16]), 0)
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Any], Tensor],
        *,
        seed: int = 0,
        corrupt: str = "skip",
        order: Order | None = None,
    ) -> None:
        if corrupt not in POLICIES:
            raise ValueError(f"corrupt={corrupt!r}; use {' or '.join(map(repr, POLICIES))}")
        if order is not None and getattr(whole(source), "sequential", False):
            raise DataError("a stream can't be read in an order of the sampler's; leave out the sampler or streaming")
        self.source = source
        self.transform = transform
        self.seed = seed
        self.corrupt = corrupt
        self.groups: np.ndarray | None = None
        self._order = order

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Return one sample.

        Raises:
            RefusedImage: The image is corrupt and `corrupt="raise"`, or a thousand images in a row are corrupt, or it
                has other channels or more bits than the network takes.
        """
        epoch, index = key
        corrupt: list[tuple[str, str]] = []
        for step in range(min(len(self), MAX_CONSECUTIVE_CORRUPT)):
            position = (index + step) % len(self)
            try:
                with seeded_rng("sample", self.seed, epoch, index):
                    image = transformed(self.source, position, self.transform)
                    return Sample(image, target_of(self.source.labels, position), (epoch, index), corrupt)
            except UnsuitableImage as error:
                raise RefusedImage(str(error)) from error
            except CorruptImage as error:
                if self.corrupt == "raise":
                    raise RefusedImage(f"corrupt image {error}") from error
                corrupt.append((error.path, error.reason))
        raise RefusedImage(f"{len(corrupt)} images in a row can't be read, the first: {': '.join(corrupt[0])}")

    @property
    def order(self) -> Order | None:
        """The given order, or the one in which the source is fastest to read, or None if any order is as fast."""
        return self._order or getattr(self.source, "order", None)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """See `collate`."""
        return collate(samples)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch (in shared memory, within a worker process)."""
    return Batch(
        images=default_collate([sample.image for sample in samples]),
        labels=default_collate([sample.label for sample in samples]),
        indices=torch.tensor([sample.key[1] for sample in samples]),
        valid=torch.tensor([not sample.corrupt for sample in samples]),
        corrupt=[issue for sample in samples for issue in sample.corrupt],
        key=samples[0].key,
    )
