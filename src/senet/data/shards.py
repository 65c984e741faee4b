"""Sharded data sets: a few large tar archives of images, and an index of their offsets.

Training reads a shard's images at about the same time, in an order that follows from (seed, epoch) alone. Any number of
processes and workers, and any interruption, therefore give the same batches.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from senet.data.images import CorruptImage, ImageInfo, Stored, as_corrupt_image, decode_stored, stored_info
from senet.data.listing import Entry
from senet.data.randomness import generator
from senet.data.request import Request
from senet.data.sources import Data, PathList
from senet.errors import DataError

__all__ = ["FORMAT", "INDEX", "LANES", "ImageRecords", "ShardSource", "open_shards", "shard_order"]

INDEX = "shards.json"
FORMAT = "senet shards 1"
SPLITS = ("train", "val", "test")

LANES = 48
"""Number of rows of shards that an epoch reads side by side. With 1, 2, 3, 4, 6, 8, 12, 16, 24 or 48 processes each one
reads its own shards. Other numbers work as well, but then each process reads from all shards.
"""

MOST_OPEN = 128
"""Shards that a process keeps open."""

_SEEKING = threading.Lock()

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A shard lies in the index's own folder: no separators, no leading dots."""


@dataclass(frozen=True)
class ImageRecords:
    """Locations of the images of one or several shards. Rows belong together.

    Attributes:
        offsets: (N,) int64, bytes from the shard's beginning.
        sizes: (N,) int64, bytes.
        labels: (N,) int64 class numbers.
        checksums: (N,) uint32, zlib's CRC-32 of the bytes.
        names: Original paths of the images, relative to their folder.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    checksums: np.ndarray
    names: PathList

    def write(self, path: Path, **more: np.ndarray) -> None:
        """Write an .npz file of plain numbers."""
        text, ends = self.names.flat
        with path.open("wb") as file:
            np.savez(
                file, offsets=self.offsets, sizes=self.sizes, labels=self.labels, checksums=self.checksums,
                name_bytes=text, name_ends=ends, **more,  # type: ignore[arg-type]
            )  # fmt: skip

    @classmethod
    def read(cls, content: bytes) -> ImageRecords:
        """Read the result of `write`, without unpickling.

        Raises:
            ValueError: The contents differ, or the rows don't belong together.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = [np.asarray(arrays[name], dtype=np.int64) for name in ("offsets", "sizes", "labels")]
            checksums = np.asarray(arrays["checksums"], dtype=np.uint32)
            names = PathList.from_flat(arrays["name_bytes"], arrays["name_ends"])
        if any(array.shape != (len(names),) for array in (*found, checksums)):  # type: ignore[attr-defined]
            raise ValueError("its rows don't belong together")
        return cls(found[0], found[1], found[2], checksums, names)

    @classmethod
    def joined(cls, parts: list[ImageRecords]) -> ImageRecords:
        """Concatenate the rows of several records."""
        arrays = ([getattr(part, name) for part in parts] for name in ("offsets", "sizes", "labels", "checksums"))
        return cls(*(np.concatenate(rows) for rows in arrays), PathList(n for part in parts for n in part.names))  # type: ignore[call-arg, arg-type]


class ShardSource:
    """The images of one split of a sharded data set.

    Args:
        folder: Folder of the shards.
        shards: Names of the files, and the number of images in each.
        records: Locations of the images, in the order of the shards.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from senet.data import Data, ShardSource, open_data, subsample, write_shards
        >>> digits, folder = open_data("digits"), Path(tempfile.mkdtemp())
        >>> data = Data("digits", digits.classes, subsample(digits.train, 40), subsample(digits.val, 10))
        >>> _ = write_shards(data, folder, workers=0)
        >>> source: ShardSource = open_data(f"shards:{folder}").val
        >>> source.shards, source[0][0].size
        (['val-00000.tar'], (8, 8))
    """

    def __init__(self, folder: Path, shards: Mapping[str, int], records: ImageRecords) -> None:
        self.folder = folder
        self.shards = list(shards)
        self.starts = np.cumsum([0, *shards.values()])
        self.records = records
        self.labels = records.labels
        self._open: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return decode_stored(self.stored(index)), int(self.labels[index])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # a spawned worker opens its own

    def stored(self, index: int) -> Stored:
        """Read the image's bytes, identical to its original file.

        Raises:
            CorruptImage: The bytes are unreadable, or differ from the checksum.
        """
        name, size = self.locate(index), int(self.records.sizes[index])
        with as_corrupt_image(name):
            content = _read_at(self._file(index), size, int(self.records.offsets[index]))
        if len(content) < size:
            raise CorruptImage(name, "the shard is truncated")
        if zlib.crc32(content) != self.records.checksums[index]:
            raise CorruptImage(name, "damaged (its checksum differs)")
        return Stored(name, content)

    def locate(self, index: int) -> str:
        """Return the shard and the image's original path."""
        return f"{self.folder / self.shards[self._shard(index)]}: {self.records.names[index]}"

    def info(self, index: int) -> ImageInfo:
        """Decode the image and describe its stored form."""
        return stored_info(self.stored(index))

    def entry(self, index: int) -> Entry:
        """Return name and size of the original file, its class number and checksum."""
        records = self.records
        target = f"{self.labels[index]} {records.checksums[index]:08x}"
        return Entry(records.names[index], int(records.sizes[index]), target)

    def order(self, seed: int, epoch: int) -> torch.Tensor:
        """Return an epoch's order, for `TrainBatchSampler`."""
        return shard_order(torch.from_numpy(self.starts), generator("shards", seed, epoch))

    def _shard(self, index: int) -> int:
        return int(np.searchsorted(self.starts, index, side="right")) - 1

    def _file(self, index: int) -> int:
        """Return the open shard of an image. Reads give their position, so that forked workers can share it."""
        shard = self._shard(index)
        if shard not in self._open:
            self._open[shard] = os.open(self.folder / self.shards[shard], os.O_RDONLY | getattr(os, "O_BINARY", 0))
            if len(self._open) > MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(shard)
        return self._open[shard]

    def __del__(self) -> None:
        for file in getattr(self, "_open", {}).values():
            os.close(file)


def _read_at(file: int, size: int, offset: int) -> bytearray:
    """Read from a position of a file, without moving the file's own position where the system can."""
    content = bytearray(size)
    if hasattr(os, "preadv"):
        del content[os.preadv(file, [content], offset) :]
        return content
    with _SEEKING:  # Windows, where processes share no file
        os.lseek(file, offset, os.SEEK_SET)
        return bytearray(os.read(file, size))


def shard_order(starts: torch.Tensor, randomness: torch.Generator) -> torch.Tensor:
    """Order all images: shards in random order, each shuffled, the whole dealt to `LANES` rows that are read in turn.

    Row l holds the images at l, l + LANES, l + 2 LANES, ... of the result. A process that takes every `world_size`-th
    image takes whole rows if possible, and so reads a `world_size`-th of the shards.

    Args:
        starts: (shards + 1,) int64: shard s holds the images from starts[s] to starts[s + 1].
        randomness: Generator of the draws.

    Returns:
        (images,) int64, a permutation.
    """
    line = torch.cat(
        [
            starts[shard] + torch.randperm(int(starts[shard + 1] - starts[shard]), generator=randomness)
            for shard in torch.randperm(len(starts) - 1, generator=randomness).tolist()
        ]
    )
    rows = torch.tensor_split(line, LANES)
    shortest = len(line) // LANES
    table = torch.stack([row[:shortest] for row in rows])
    return torch.cat([table.T.flatten(), *(row[shortest:] for row in rows)])


def open_shards(request: Request) -> Data:
    """Read `shards:DIR`, the output of `senet shard`.

    Raises:
        DataError: The folder is missing or incomplete, or differs from its index.
    """
    if not request.path:
        raise DataError("shards needs a path: shards:DIR")
    request.refuse_split("it is divided already; `senet shard` takes --val-fraction")
    folder = request.folder().absolute()
    index = _read_index(folder)
    try:
        classes = tuple(map(str, index["classes"]))
        splits = {
            split: _read_split(folder, entry, len(classes))
            for split, entry in index["splits"].items()
            if split in SPLITS
        }
        return Data(request.name, classes, splits["train"], splits["val"], splits.get("test"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder / INDEX} isn't an index of `senet shard`: {type(error).__name__} {error}") from error


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        found = "incomplete shards" if any(folder.glob("*.tar")) else f"no {INDEX}"
        raise DataError(f"{folder} holds {found}; senet shard folder:PATH --out {folder} makes them (or continues)")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} can't be read: {error}") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise DataError(f"{path} isn't of the format {FORMAT!r}, which this version reads")
    return index


def _read_split(folder: Path, entry: Mapping[str, Any], classes: int) -> ShardSource:
    table = folder / _plain(entry["table"], suffix=".npz")
    content = table.read_bytes() if table.is_file() else b""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise DataError(f"{table} is {'damaged' if content else 'missing'}; make the shards again with `senet shard`")
    records = ImageRecords.read(content)
    shards = {_plain(shard["name"]): int(shard["images"]) for shard in entry["shards"]}
    source = ShardSource(folder, shards, records)
    if source.starts[-1] != len(records.labels) or len(shards) != len(entry["shards"]):
        raise DataError(f"{folder / INDEX}: its shards and its {table.name} don't belong together")
    if len(records.labels) == 0 or records.labels.min() < 0 or records.labels.max() >= classes:
        raise DataError(f"{table}: labels must be 0..{classes - 1}, and there must be some")
    lowest, ends = np.minimum(records.offsets, records.sizes), records.offsets + records.sizes
    for position, shard in enumerate(entry["shards"]):
        path, rows = folder / shard["name"], slice(source.starts[position], source.starts[position + 1])
        size = path.stat().st_size if path.is_file() else -1
        if size != shard["bytes"]:
            found = "missing" if size < 0 else f"{size:,} bytes long instead of {shard['bytes']:,}"
            raise DataError(f"{path} is {found}; copy it again, or delete it and run `senet shard` again")
        if shard["images"] and (lowest[rows].min() < 0 or ends[rows].max() > size):
            raise DataError(f"{table}: an image lies outside of {path.name}")
    return source


def _plain(name: Any, suffix: str = ".tar") -> str:
    """Return a file name without any folder."""
    if not (isinstance(name, str) and name.endswith(suffix) and PLAIN_NAME.fullmatch(name)):
        raise DataError(f"{name!r} can't belong to the shards: a shard lies in the index's own folder")
    return name
