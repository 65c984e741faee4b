"""The list of a data set's images: its digest, and which images two data sets share."""

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
"""Hashes of training images that a checkpoint keeps. So many or fewer images are known one by one, of more a sample."""


class Entry(NamedTuple):
    """What names an image wherever the data lies.

    Attributes:
        path: Below the folder of its part, with `/` between names; of an image in memory, its number.
        size: Of its file in bytes; 0 in memory, -1 where there is no such file.
        target: What it is labelled with, in words or as a hash.
    """

    path: str
    size: int
    target: str


def path_below(path: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> str:
    """A path below a folder in POSIX form; the path itself where it lies elsewhere, or without a folder."""
    text = os.fspath(path)
    start = os.path.join(os.fspath(root), "") if root is not None else ""
    return Path(text[len(start) :] if text.startswith(start) else text).as_posix()


def file_size(path: str | os.PathLike[str]) -> int:
    """Bytes of a file; -1 if it isn't there."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def whole(source: Source) -> Source:
    """The source that a subset, or a subset of a subset, is of."""
    from senet.data.sources import Subset

    while isinstance(source, Subset):
        source = source.source
    return source


def digest_of(parts: Mapping[str, Source], classes: Iterable[str]) -> str:
    """SHA-256 over the classes and the sorted lines of (part, path, target, size), in hexadecimal.

    Args:
        parts: The whole sources by the part that they come as.
        classes: Names of the classes, in their order: targets are numbers of these.
    """
    lines = []
    for part, source in parts.items():
        for index in range(len(source)):
            path, size, target = source.entry(index)
            lines.append(b"\0".join((part.encode(), portable(path), target.encode(), str(size).encode())))
    found = hashlib.sha256()
    for line in (*(portable(name) for name in classes), b"", *sorted(lines)):
        found.update(len(line).to_bytes(8, "big") + line)
    return found.hexdigest()


def path_hash(entry: Entry) -> str:
    """16 hexadecimal digits of an image's path and size."""
    return hashlib.sha256(portable(entry.path) + f"\0{entry.size}".encode()).hexdigest()[:16]


def content_hash(source: Source, index: int) -> str:
    """16 hexadecimal digits of an image's file; zeros where there is none to be read."""
    try:
        stored = source.stored(index)
    except CorruptImage:
        stored = None
    return hashlib.sha256(stored.content).hexdigest()[:16] if stored else "0" * 16


def sample_of(source: Source, count: int = SAMPLED) -> tuple[str, ...]:
    """Hashes of path and content of the images whose hashes of paths are the smallest, ascending.

    So it is the same sample of an image's source wherever it is taken. Only these images are read.
    """
    positions = {path_hash(source.entry(index)): index for index in range(len(source))}
    return tuple(one + content_hash(source, positions[one]) for one in heapq.nsmallest(count, positions))


def count_sampled(source: Source, sample: Sequence[str]) -> int:
    """How many images of a source are among those of which `sample_of` took a sample.

    Exact where the sample holds all of them, fewer than 1,024. Else an estimate, which misses a few images among many.
    """
    known = {one[:16]: one[16:] for one in sample}
    paths = [path_hash(source.entry(index)) for index in range(len(source))]
    found = sum(one in known and known[one] == content_hash(source, index) for index, one in enumerate(paths))
    if len(known) < SAMPLED:
        return found
    comparable = sum(one <= sample[-1][:16] for one in paths)
    return round(found / comparable * len(paths)) if comparable else 0
