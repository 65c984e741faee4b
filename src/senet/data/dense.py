"""Pictures with boxes or a mask: what a source of them gives, and samples that depend on their place alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from senet.data.dataset import MOST_IN_A_ROW, POLICIES, RefusedImage
from senet.data.images import CorruptImage
from senet.data.listing import whole
from senet.data.randomness import seeded_rng
from senet.data.sampler import Order
from senet.data.sources import Data, Source, Subset

__all__ = [
    "AnnotationIssue",
    "DenseBatch",
    "DenseDataset",
    "DenseSource",
    "Target",
    "annotation_issues",
    "aspect_groups",
    "object_counts",
    "sizes_of",
]

Target = dict[str, Any]
"""What is known of a picture, as NumPy arrays.

Detection: `boxes` (n, 4) float32 as x1, y1, x2, y2 in pixels, `labels` (n,) int64 from 0; `crowd` (n,) bool: no single
object, `difficult` (n,) bool: an object that few would see. Both are neither learned nor counted.
Segmentation: `mask` (H, W) uint8 class numbers, 255 where nothing is said.
"""


class AnnotationIssue(NamedTuple):
    """Something wrong with what is said about a picture.

    Attributes:
        path: The file that says it.
        reason: What is wrong, in a few words.
        fatal: Whether one can't train around it; else the box is cut to the picture or left out.
    """

    path: str
    reason: str
    fatal: bool = True


class DenseSource(Source, Protocol):
    """A numbered row of pictures with targets. Its `labels` are zeros: a picture has no class of its own."""

    sizes: np.ndarray
    """(N, 2) width and height of each picture; zeros where that isn't known without decoding."""

    issues: list[AnnotationIssue]
    """What is wrong with its annotations."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        """Decode one picture; `CorruptImage` if that fails."""

    def counts(self, classes: int) -> list[int]:
        """Boxes, or pictures, of each class."""


class DenseSample(NamedTuple):
    """One picture of a batch to be."""

    image: Tensor
    target: dict[str, Tensor]
    key: tuple[int, int]
    corrupt: list[tuple[str, str]]


class DenseBatch(NamedTuple):
    """What a loader yields; Lightning and `pin_memory` move its tensors.

    Attributes:
        images: (C, H, W) float32 each; sizes may differ.
        targets: What is known of each, as tensors.
        indices: (N,) int64 positions in the source that were asked for.
        valid: (N,) bool, False for a stand-in of a picture that couldn't be read. Evaluation leaves it out.
        corrupt: (path, reason) of each picture that couldn't be read.
        key: Epoch and first index, which name the batch.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    indices: Tensor
    valid: Tensor
    corrupt: list[tuple[str, str]]
    key: tuple[int, int]


class DenseDataset(Dataset[DenseSample]):
    """Transformed pictures with their targets, asked for by `(epoch, index)`; as `ImageDataset` in all else.

    Args:
        source: The pictures.
        transform: (PIL image, target) -> (tensor, target of tensors), whose randomness is torch's.
        seed: The run's seed.
        corrupt: `"skip"` or `"raise"`: what happens at a picture that can't be read.
        groups: (N,) what shall not be mixed in a batch if it can be helped, see `TrainBatchSampler`.

    Raises:
        ValueError: Another `corrupt`.
    """

    def __init__(
        self,
        source: DenseSource,
        transform: Callable[[Image.Image, Target], tuple[Tensor, dict[str, Tensor]]],
        *,
        seed: int = 0,
        corrupt: str = "skip",
        groups: np.ndarray | None = None,
    ) -> None:
        if corrupt not in POLICIES:
            raise ValueError(f"corrupt={corrupt!r}; use {' or '.join(map(repr, POLICIES))}")
        self.source = source
        self.transform = transform
        self.seed = seed
        self.corrupt = corrupt
        self.groups = groups
        self.order: Order | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> DenseSample:
        """One sample.

        Raises:
            RefusedImage: The picture can't be read and `corrupt="raise"`, or a thousand in a row can't.
        """
        epoch, index = key
        corrupt: list[tuple[str, str]] = []
        for step in range(min(len(self), MOST_IN_A_ROW)):
            try:
                image, target = self.source[(index + step) % len(self)]
            except CorruptImage as error:
                if self.corrupt == "raise":
                    raise RefusedImage(f"corrupt image {error}") from error
                corrupt.append((error.path, error.reason))
                continue
            with seeded_rng("sample", self.seed, epoch, index):
                return DenseSample(*self.transform(image, target), (epoch, index), corrupt)
        raise RefusedImage(f"{len(corrupt)} images in a row can't be read, the first: {': '.join(corrupt[0])}")

    def collate(self, samples: Sequence[DenseSample]) -> DenseBatch:
        """One batch; pictures of different sizes stay apart."""
        return DenseBatch(
            images=[sample.image for sample in samples],
            targets=[sample.target for sample in samples],
            indices=torch.tensor([sample.key[1] for sample in samples]),
            valid=torch.tensor([not sample.corrupt for sample in samples]),
            corrupt=[issue for sample in samples for issue in sample.corrupt],
            key=samples[0].key,
        )


def aspect_groups(sizes: np.ndarray, bins: int = 3) -> np.ndarray:
    """Pictures that fill a batch alike: (N,) numbers of bins of width over height, in equal steps of its logarithm.

    Args:
        sizes: (N, 2) width and height; zeros count as square.
        bins: On either side of the square, each a factor of 2 ** (1 / bins) wide.

    Source: the grouping of torchvision's detection reference, `group_by_aspect_ratio.py`.
    """
    width, height = np.maximum(sizes, 1).T
    edges = 2.0 ** np.linspace(-1, 1, 2 * bins + 1)
    return np.searchsorted(edges, width / height, side="right")


def sizes_of(source: Source) -> np.ndarray:
    """(N, 2) width and height of each picture of a source, or of some of its pictures."""
    if isinstance(source, Subset):
        return sizes_of(source.source)[source.indices]
    sizes: np.ndarray = source.sizes  # type: ignore[attr-defined]
    return sizes


def object_counts(labels: Iterable[np.ndarray], classes: int) -> list[int]:
    """How many boxes of each class there are."""
    found = np.concatenate([np.zeros(0, dtype=np.int64), *labels])
    return np.bincount(found, minlength=classes).tolist()


def annotation_issues(data: Data) -> list[AnnotationIssue]:
    """What is wrong with the annotations of all parts of a data set; empty for data that has none."""
    found = [issue for part in data.parts.values() for issue in getattr(whole(part), "issues", ())]
    return list(dict.fromkeys(found))
