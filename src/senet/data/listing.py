"""The list of a data set's images: its digest, and the overlap of two data sets."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from senet.data.images import CorruptImage
from senet.data.split import portable

if TYPE_CHECKING:
    from senet.data.sources import Source

__all__ = [
    "SAMPLED",
    "Entry",
    "content_hash",
    "count_sampled",
    "digest_of",
    "file_size",
    "path_below",
    "path_hash",
    "sample_of",
    "whole",
]

SAMPLED = 1024
"""Hashes of training images that a checkpoint keeps. Smaller data sets are kept completely, larger ones as a sample."""


class Entry(NamedTuple):
    """Identity of an image, independent of the data set's location.

    Attributes:
        path: Relative to the folder of its split, with `/` between names. For an image in memory, its number.
        size: Bytes of its file, or 0 in memory and -1 if there is no such file.
        target: Its label, in words or as a hash.
    """

    path: str
    size: int
    target: str


def path_below(path: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> str:
    """Return a path relative to a folder in POSIX form, or the path itself if it lies elsewhere or without a folder."""
    text = os.fspath(path)
    start = os.path.join(os.fspath(root), "") if root is not None else ""
    return Path(text[len(start) :] if text.startswith(start) else text).as_posix()


def file_size(path: str | os.PathLike[str]) -> int:
    """Return the bytes of a file, or -1 if it is missing."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def whole(source: Source) -> Source:
    """Return the source of a subset, also of a subset of a subset."""
    from senet.data.sources import Subset

    while isinstance(source, Subset):
        source = source.source
    return source


def digest_of(splits: Mapping[str, Source], classes: Iterable[str]) -> str:
    """Return the SHA-256 of the classes and the sorted lines of (split, path, target, size), in hexadecimal.

    Args:
        splits: The whole sources by the names of their splits.
        classes: Names of the classes, in the order of the class numbers.
    """
    lines = []
    for split, source in splits.items():
        for index in range(len(source)):
            path, size, target = source.entry(index)
            lines.append(b"\0".join((split.encode(), portable(path), target.encode(), str(size).encode())))
    found = hashlib.sha256()
    for line in (*(portable(name) for name in classes), b"", *sorted(lines)):
        found.update(len(line).to_bytes(8, "big") + line)
    return found.hexdigest()


def path_hash(entry: Entry) -> str:
    """Return 16 hexadecimal digits of an image's path and size."""
    return hashlib.sha256(portable(entry.path) + f"\0{entry.size}".encode()).hexdigest()[:16]


def content_hash(source: Source, index: int) -> str:
    """Return 16 hexadecimal digits of an image's file, or zeros if it is unreadable or has none."""
    if source.entry(index).size == 0:
        return "0" * 16
    try:
        stored = source.stored(index)
    except CorruptImage:
        stored = None
    return hashlib.sha256(stored.content).hexdigest()[:16] if stored else "0" * 16


def sample_of(source: Source, count: int = SAMPLED) -> tuple[str, ...]:
    """Return hashes of path and content of the images with the smallest path hashes, ascending.

    The sample of a source is the same everywhere. Only the sampled images are read.
    """
    positions = {path_hash(source.entry(index)): index for index in range(len(source))}
    sampled = heapq.nsmallest(count, positions)
    contents = {one: content_hash(source, positions[one]) for one in sorted(sampled, key=lambda one: positions[one])}
    return tuple(one + contents[one] for one in sampled)


def count_sampled(source: Source, sample: Sequence[str]) -> int:
    """Count the images of a source that are in the source sampled by `sample_of`.

    The count is exact if the sample holds all images, fewer than 1,024. Otherwise it is an estimate, which misses a few
    images among many.
    """
    known = {one[:16]: one[16:] for one in sample}
    paths = [path_hash(source.entry(index)) for index in range(len(source))]
    found = sum(one in known and known[one] == content_hash(source, index) for index, one in enumerate(paths))
    if len(known) < SAMPLED:
        return found
    comparable = sum(one <= sample[-1][:16] for one in paths)
    return round(found / comparable * len(paths)) if comparable else 0
