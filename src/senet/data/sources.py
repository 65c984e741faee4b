"""Sources of images: indexed collections of (image, label), whose labels are known without decoding."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, overload

import numpy as np
import torch
from PIL import Image

from senet.data.channels import ChannelOptions
from senet.data.images import ImageInfo, Stored, decode_image, file_info, read_stored
from senet.data.labels import MULTI_LABEL, as_labels, class_totals, label_text, target_of
from senet.data.listing import Entry, digest_of, file_size, path_below, sample_of, whole
from senet.data.request import storable, with_absolute_path
from senet.data.sampler import Order
from senet.data.split import SplitSpec
from senet.errors import DataError
from senet.preprocessing import Preprocessing
from senet.weights import DataRecord

__all__ = ["Chain", "Data", "FileSource", "PathList", "Source", "Subset", "missing_classes", "subsample"]


class Source(Protocol):
    """An indexed collection of labelled images.

    Example:
        >>> from senet.data import Source, open_data
        >>> source: Source = open_data("digits").train
        >>> image, label = source[0]
        >>> image.size, label, source.locate(0)
        ((8, 8), 0, 'digits image 0')
    """

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64 class numbers, or (N, classes) uint8 of 0 and 1 for multi-label images. Known without decoding."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        """Decode one image, with its label or its target. Raises `CorruptImage` if it can't be decoded.

        The target of a multi-label image is a float32 tensor of shape (classes,) with 0 and 1.

        The image is in mode RGB, L or, for 16-bit grey, I;16, which `ToMode` converts to 8 bits.
        """

    def stored(self, index: int) -> Stored | None:
        """Return one image's file, not decoded, or None without a file. Raises `CorruptImage` if it is unreadable."""

    def locate(self, index: int) -> str:
        """Return the name of this image for people: its path, for a file."""

    def info(self, index: int) -> ImageInfo:
        """Decode one image and describe its stored form. Raises `CorruptImage` if it can't be decoded."""

    def entry(self, index: int) -> Entry:
        """Return the identity of this image, independent of the data set's location, without reading the image."""


@dataclass(frozen=True, eq=False)
class Data:
    """A data set, ready to train on: its classes, its splits and a suitable preprocessing.

    Attributes:
        name: Its requested name (`"folder:/data/flowers"`).
        classes: Class names. A label is a position in this tuple.
        train: Training images.
        val: Validation images.
        test: Test images, if the data set has any.
        default_preprocessing: Preprocessing that suits the data. None leaves it to the network.
        task: The task that the data is for, a key of `senet.tasks.TASKS`.
        split_spec: Fraction and seed (or folds) that divided the images, or None for data that was divided already.
        left_out: Files among the images that aren't read: other files, and formats unknown to this Pillow.
        white_level: White of its 16-bit images, if given, see `Preprocessing.white_level`.
        channels: Channels, bit depth and statistics, if given, see `senet.data.channels.with_channels`.
        category_ids: COCO's number of each class, empty for other data.
        held_out: The test split was taken from the validation split by `senet.data.hold_out`.

    Example:
        >>> from senet.data import open_data
        >>> data = open_data("digits")
        >>> data.task, list(data.splits), data.split("all").labels.shape
        ('classification', ['train', 'val'], (1797,))
    """

    name: str
    classes: tuple[str, ...]
    train: Source
    val: Source
    test: Source | None = None
    default_preprocessing: Preprocessing | None = None
    task: str = "classification"
    split_spec: SplitSpec | None = None
    left_out: tuple[str, ...] = ()
    white_level: int | None = None
    channels: ChannelOptions | None = None
    category_ids: tuple[int, ...] = ()
    held_out: bool = False

    @property
    def multi_label(self) -> bool:
        """Whether an image may have any number of classes, also none: `task` is `"multi-label"`."""
        return self.task == MULTI_LABEL

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the list of images: paths below the data's folder, targets and file sizes. In hexadecimal.

        Neither the folder's location nor the division changes it. A subset counts as the whole split. No image is read,
        so a changed image of the same size isn't noticed.
        """
        splits = {id(found := whole(source)): (name, found) for name, source in reversed(self.splits.items())}
        named: dict[str, list[Source]] = {}
        for name, source in splits.values():
            named.setdefault("" if self.split_spec else name, []).append(source)
        return digest_of({name: Chain(sources) for name, sources in named.items()}, self.classes)

    @property
    def absolute_name(self) -> str:
        """The requested name with an absolute path, as text for JSON."""
        return storable(with_absolute_path(self.name))

    @cached_property
    def division(self) -> str:
        """SHA-256 of the training and validation images of undivided data, in hexadecimal. Empty for divided data."""
        if self.split_spec is None:
            return ""
        found = hashlib.sha256()
        for source in (self.train, self.val):
            found.update(_positions(source).astype("<i8").tobytes() + b"|")
        return found.hexdigest()

    def record(self) -> DataRecord:
        """Return the record of the data for a checkpoint."""
        return DataRecord(
            name=self.absolute_name,
            val_fraction=self.split_spec.fraction if self.split_spec else None,
            split_seed=self.split_spec.seed if self.split_spec else None,
            digest=self.digest,
            train=len(self.train),
            val=len(self.val),
            held_out=self.held_out,
            sample=sample_of(self.train),
            folds=self.split_spec.folds if self.split_spec else 0,
            fold=self.split_spec.fold if self.split_spec else 0,
            group=self.split_spec.group if self.split_spec else "",
        )

    @property
    def numbering(self) -> dict[str, list[int]]:
        """COCO's category numbers for a checkpoint."""
        return {"category_ids": list(self.category_ids)} if self.category_ids else {}

    @property
    def splits(self) -> dict[str, Source]:
        """The existing splits by name."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: source for name, source in named.items() if source is not None}

    def split(self, name: str) -> Source:
        """Return one split by its name, or all of them by the name `"all"`.

        Raises:
            DataError: There is no such split, or it is empty.
        """
        if name != "all" and name not in self.splits:
            raise DataError(f"{self.name} has no {name!r} split; it has {', '.join(self.splits)}")
        found = Chain(tuple(self.splits.values())) if name == "all" else self.splits[name]
        if not len(found):
            raise DataError(f"the {name!r} split of {self.name} has no images")
        return found


def _positions(source: Source) -> np.ndarray:
    """Return the positions of a subset's images in the whole source."""
    if not isinstance(source, Subset):
        return np.arange(len(source))
    return _positions(source.source)[source.indices]


class PathList(Sequence[str]):
    """Millions of paths in two flat arrays, which worker processes share without copies.

    A forked worker copies a list's strings as soon as their reference counts are touched.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)

    @property
    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """All bytes, and the end of each path (starting with 0)."""
        return self._text, self._ends

    @classmethod
    def from_flat(cls, text: np.ndarray, ends: np.ndarray) -> PathList:
        """Rebuild the list from the result of `flat`.

        Raises:
            ValueError: The arrays don't belong together.
        """
        ends = np.asarray(ends, dtype=np.int64)
        if ends.ndim != 1 or not len(ends) or ends[0] != 0 or ends[-1] != len(text) or (np.diff(ends) < 0).any():
            raise ValueError("the ends of the names are inconsistent")
        paths = cls(())
        paths._text, paths._ends = np.asarray(text, dtype=np.uint8), ends
        return paths

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> PathList: ...

    def __getitem__(self, index: int | slice) -> str | PathList:
        if isinstance(index, slice):
            return PathList(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} paths")
        index %= len(self)
        return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]].tobytes())


class FileSource:
    """Image files and their labels.

    Args:
        paths: One file for each image.
        labels: One class number for each file, or (N, classes) of 0 and 1 for multi-label images. None gives unlabelled
            files the number -1.
        root: Root folder of the data set. Paths in the data's digest are relative to it.

    Example:
        >>> from senet.data import FileSource
        >>> source = FileSource(["flowers/rose/1.jpg", "flowers/tulip/1.jpg"], [0, 1], root="flowers")
        >>> source.entry(1).path, source.labels.tolist()
        ('tulip/1.jpg', [0, 1])
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        labels: Sequence[int] | np.ndarray | None = None,
        *,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        self.paths = PathList(paths)
        self.root = None if root is None else os.fspath(root)
        self.labels = np.full(len(self.paths), -1) if labels is None else as_labels(labels)
        if len(self.paths) != len(self.labels):
            raise ValueError(f"{len(self.paths)} paths, but {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return decode_image(self.paths[index]), target_of(self.labels, index)

    def stored(self, index: int) -> Stored:
        """Read the file's bytes."""
        return read_stored(self.paths[index])

    def locate(self, index: int) -> str:
        """Return the file's path."""
        return self.paths[index]

    def info(self, index: int) -> ImageInfo:
        """Decode the file and describe its stored form."""
        return file_info(self.paths[index])

    def entry(self, index: int) -> Entry:
        """Return path below the root, size and class numbers."""
        path = self.paths[index]
        return Entry(path_below(path, self.root), file_size(path), label_text(self.labels, index))


class Subset:
    """Some images of a source, in the order of `indices`.

    Example:
        >>> import numpy as np
        >>> from senet.data import Subset, open_data
        >>> source = open_data("digits").train
        >>> zeros = Subset(source, np.flatnonzero(source.labels == 0))
        >>> set(zeros.labels.tolist())
        {0}
    """

    def __init__(self, source: Source, indices: np.ndarray) -> None:
        self.source = source
        self.indices = indices
        self.labels = source.labels[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return self.source[int(self.indices[index])]

    def stored(self, index: int) -> Stored | None:
        """Return the stored image of the whole source."""
        return self.source.stored(int(self.indices[index]))

    def locate(self, index: int) -> str:
        """Return the image's name in the whole source."""
        return self.source.locate(int(self.indices[index]))

    def info(self, index: int) -> ImageInfo:
        """Return the image's properties in the whole source."""
        return self.source.info(int(self.indices[index]))

    def entry(self, index: int) -> Entry:
        """Return the image's identity in the whole source."""
        return self.source.entry(int(self.indices[index]))

    @property
    def order(self) -> Order | None:
        """The order in which the whole source is fastest to read, or None if any order is as fast."""
        whole: Order | None = getattr(self.source, "order", None)
        return None if whole is None else lambda seed, epoch: self._within(whole(seed, epoch))

    def _within(self, order: torch.Tensor) -> torch.Tensor:
        """Return the positions of this subset in the order of the whole source."""
        ranks = torch.empty_like(order)
        ranks[order] = torch.arange(len(order))
        return torch.argsort(ranks[torch.as_tensor(self.indices)], stable=True)


class Chain:
    """Several sources as one, in their order."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.labels = np.concatenate([source.labels for source in sources])
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return len(self.labels)

    def _place(self, index: int) -> tuple[Source, int]:
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[which], index - int(self._ends[which]) + len(self.sources[which])

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        source, position = self._place(index)
        return source[position]

    def stored(self, index: int) -> Stored | None:
        """Return the stored image of its own source."""
        source, position = self._place(index)
        return source.stored(position)

    def locate(self, index: int) -> str:
        """Return the image's name in its own source."""
        source, position = self._place(index)
        return source.locate(position)

    def info(self, index: int) -> ImageInfo:
        """Return the image's properties."""
        source, position = self._place(index)
        return source.info(position)

    def entry(self, index: int) -> Entry:
        """Return the image's identity in its own source."""
        source, position = self._place(index)
        return source.entry(position)


def missing_classes(source: Source, classes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the classes without an image in a source."""
    counts = class_totals(source.labels, len(classes))
    return tuple(name for name, count in zip(classes, counts, strict=True) if not count)


def subsample(source: Source, limit: int, *, seed: int = 0) -> Source:
    """Draw at most `limit` images of a source, always the same ones, for a quick run.

    Raises:
        ValueError: `limit` isn't positive.

    Example:
        >>> from senet.data import open_data, subsample
        >>> len(subsample(open_data("digits").train, 100))
        100
    """
    if limit < 1:
        raise ValueError(f"limit={limit} must be at least 1")
    if limit >= len(source):
        return source
    return Subset(source, np.sort(np.random.RandomState(seed % 2**32).permutation(len(source))[:limit]))
