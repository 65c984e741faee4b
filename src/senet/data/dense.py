"""Images with boxes or masks: sources, samples and batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from senet.data.dataset import MAX_CONSECUTIVE_CORRUPT, POLICIES, RefusedImage
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
"""Annotations of an image, as NumPy arrays.

Detection: `boxes` (n, 4) float32 as x1, y1, x2, y2 in pixels, and `labels` (n,) int64 from 0. `crowd` (n,) bool marks
groups of objects, and `difficult` (n,) bool objects that are hard to see. Neither is trained on or counted.

Segmentation: `mask` (H, W) uint8 class numbers, 255 where no class is given.
"""


class AnnotationIssue(NamedTuple):
    """An error in an image's annotation.

    Attributes:
        path: The annotation file.
        reason: The error, in a few words.
        fatal: Whether training refuses it. Otherwise the box is cut to the image or left out.

    Example:
        >>> from senet.data import AnnotationIssue
        >>> issue = AnnotationIssue("Annotations/001.xml", "cat box (4, 4, 4, 9) has no area; left out", fatal=False)
        >>> f"{issue.path}: {issue.reason}"
        'Annotations/001.xml: cat box (4, 4, 4, 9) has no area; left out'
    """

    path: str
    reason: str
    fatal: bool = True


class DenseSource(Source, Protocol):
    """An indexed collection of images with targets. Its `labels` are zeros, since an image has no class of its own.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from senet.data import DenseSource
        >>> from senet.data.masks import MaskSource
        >>> image, mask = (Path(tempfile.mkdtemp(), name) for name in ("image.png", "mask.png"))
        >>> Image.new("RGB", (64, 48)).save(image), Image.new("L", (64, 48)).save(mask)
        (None, None)
        >>> source: DenseSource = MaskSource([image], [mask], classes=2, instances=False)
        >>> source.sizes.tolist(), source.counts(2), source[0][1]["mask"].shape
        ([[64, 48]], [1, 0], (48, 64))
    """

    sizes: np.ndarray
    """(N, 2) width and height of each image, or zeros if unknown without decoding."""

    issues: list[AnnotationIssue]
    """Issues of its annotations."""

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        """Decode one image. Raises `CorruptImage` if it can't be decoded."""

    def counts(self, classes: int) -> list[int]:
        """Count the boxes, or the images, of each class."""


class DenseSample(NamedTuple):
    """One sample of a batch."""

    image: Tensor
    target: dict[str, Tensor]
    key: tuple[int, int]
    corrupt: list[tuple[str, str]]


class DenseBatch(NamedTuple):
    """One batch of a detection or segmentation loader. Lightning and `pin_memory` move its tensors.

    Attributes:
        images: (C, H, W) float32 each. Sizes may differ.
        targets: Annotations of each image, as tensors.
        indices: (N,) int64 requested positions in the source.
        valid: (N,) bool, False for the stand-in of a corrupt image. Evaluation leaves stand-ins out.
        corrupt: (path, reason) of each corrupt image.
        key: Epoch and first index, which identify the batch.

    Example:
        >>> import torch
        >>> from senet.data import DenseBatch
        >>> target = {"boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]]), "labels": torch.tensor([0])}
        >>> batch = DenseBatch([torch.rand(3, 32, 48)], [target], torch.tensor([7]), torch.tensor([True]), [], (0, 7))
        >>> len(batch.images), batch.targets[0]["boxes"].shape
        (1, torch.Size([1, 4]))
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    indices: Tensor
    valid: Tensor
    corrupt: list[tuple[str, str]]
    key: tuple[int, int]


class DenseDataset(Dataset[DenseSample]):
    """Transformed images with their targets, indexed by `(epoch, index)`, see `ImageDataset`.

    Args:
        source: The images.
        transform: (PIL image, target) -> (tensor, target of tensors), whose randomness is torch's.
        seed: The run's seed.
        corrupt: `"skip"` or `"raise"`: how a corrupt image is handled.
        groups: (N,) group of each image. Batches are of one group where possible, see `TrainBatchSampler`.

    Raises:
        ValueError: Another `corrupt`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from senet.data import DenseDataset
        >>> from senet.data.joint_transform import masks_transform
        >>> from senet.data import DenseSource
        >>> from senet.data.masks import MaskSource
        >>> from senet.preprocessing import Preprocessing
        >>> image, mask = (Path(tempfile.mkdtemp(), name) for name in ("image.png", "mask.png"))
        >>> Image.new("RGB", (64, 48)).save(image), Image.new("L", (64, 48)).save(mask)
        (None, None)
        >>> source = MaskSource([image], [mask], classes=2, instances=False)
        >>> dataset = DenseDataset(source, masks_transform(Preprocessing(size=(96, 96))))
        >>> sample = dataset[0, 0]  # epoch 0, index 0
        >>> sample.image.shape, sample.target["mask"].shape
        (torch.Size([3, 96, 128]), torch.Size([48, 64]))
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
        """Return one sample.

        Raises:
            RefusedImage: The image is corrupt and `corrupt="raise"`, or a thousand images in a row are corrupt.
        """
        epoch, index = key
        corrupt: list[tuple[str, str]] = []
        for step in range(min(len(self), MAX_CONSECUTIVE_CORRUPT)):
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
        """Make one batch. Images of different sizes stay separate tensors."""
        return DenseBatch(
            images=[sample.image for sample in samples],
            targets=[sample.target for sample in samples],
            indices=torch.tensor([sample.key[1] for sample in samples]),
            valid=torch.tensor([not sample.corrupt for sample in samples]),
            corrupt=[issue for sample in samples for issue in sample.corrupt],
            key=samples[0].key,
        )


def aspect_groups(sizes: np.ndarray, bins: int = 3) -> np.ndarray:
    """Group images by aspect ratio: (N,) bin numbers, in equal steps of the logarithm of width over height.

    Args:
        sizes: (N, 2) width and height. Zeros count as square.
        bins: Bins on either side of the square, each a factor of 2 ** (1 / bins) wide.

    Source: the grouping of torchvision's detection reference, `group_by_aspect_ratio.py`.
    """
    width, height = np.maximum(sizes, 1).T
    edges = 2.0 ** np.linspace(-1, 1, 2 * bins + 1)
    return np.searchsorted(edges, width / height, side="right")


def sizes_of(source: Source) -> np.ndarray:
    """(N, 2) width and height of each image of a source, or of a subset of a source."""
    if isinstance(source, Subset):
        return sizes_of(source.source)[source.indices]
    sizes: np.ndarray = source.sizes  # type: ignore[attr-defined]
    return sizes


def object_counts(labels: Iterable[np.ndarray], classes: int) -> list[int]:
    """Count the boxes of each class."""
    found = np.concatenate([np.zeros(0, dtype=np.int64), *labels])
    return np.bincount(found, minlength=classes).tolist()


def annotation_issues(data: Data) -> list[AnnotationIssue]:
    """List the annotation issues of all splits of a data set, empty for data without annotations.

    Example:
        >>> from senet.data import annotation_issues, open_data
        >>> annotation_issues(open_data("digits"))
        []
    """
    found = [issue for split in data.splits.values() for issue in getattr(whole(split), "issues", ())]
    return list(dict.fromkeys(found))
