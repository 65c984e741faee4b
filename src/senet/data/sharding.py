"""Writing shards of a data set: checked, in random order, atomic and resumable."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from senet.data.bands import TIFF_MAGIC, read_bands
from senet.data.corrupt_images import CorruptImageReport
from senet.data.formats import is_array
from senet.data.images import CorruptImage, Stored, decode_stored, opened
from senet.data.loader import default_workers
from senet.data.quiet import quiet_pillow
from senet.data.randomness import generator
from senet.data.shards import FORMAT, INDEX, ImageRecords
from senet.data.sources import Data, PathList, Source
from senet.errors import DataError
from senet.weights.files import write_atomically

__all__ = ["ShardSummary", "write_shards"]

SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}
"""File suffixes of Pillow's formats whose names differ from them."""

PLAN = ".plan.json"
SAMPLED = 64


@dataclass(frozen=True)
class ShardSummary:
    """Summary of `write_shards`.

    Attributes:
        images: Images written, by split.
        shards: Files written, by split.
        megabytes: Size of all shards.
        reused: Shards that an earlier call had finished.
        corrupt: Name and reason of each image that was left out.

    Example:
        >>> from senet.data import ShardSummary
        >>> summary = ShardSummary({"train": 40}, {"train": 1}, megabytes=0.08, reused=0, corrupt=[])
        >>> summary.images["train"], summary.corrupt
        (40, [])
    """

    images: dict[str, int]
    shards: dict[str, int]
    megabytes: float
    reused: int
    corrupt: list[tuple[str, str]]


class Piece(NamedTuple):
    """A shard to write."""

    split: str
    name: str
    indices: np.ndarray


class Written(NamedTuple):
    """A finished shard."""

    records: ImageRecords
    corrupt: list[tuple[str, str]]
    reused: bool


def write_shards(
    data: Data,
    folder: Path,
    *,
    shard_mb: float = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str, str], None] | None = None,
) -> ShardSummary:
    """Write a data set as shards, which `shards:FOLDER` reads. Image files are copied byte for byte.

    Every image is decoded once. A corrupt image is left out and reported. A shard appears only when it is complete, and
    the index only when all shards are. An interrupted call can be repeated and continues.

    Args:
        data: The data set, with all its splits.
        folder: Output folder, made if missing.
        shard_mb: Approximate size of a shard, in 10^6 bytes.
        seed: Seed of the order of images.
        workers: Processes that read and check, 0 for none, None for one on each CPU core.
        progress: Called with the numbers of images done and in all.
        report: Called with name and reason of each corrupt image.

    Returns:
        A summary of the written shards.

    Raises:
        DataError: The folder holds other files, too many images are corrupt, or the data isn't for classification.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from senet.data import Data, open_data, subsample, write_shards
        >>> digits, folder = open_data("digits"), Path(tempfile.mkdtemp())
        >>> data = Data("digits", digits.classes, subsample(digits.train, 40), subsample(digits.val, 10))
        >>> write_shards(data, folder, workers=0).images
        {'train': 40, 'val': 10}
        >>> open_data(f"shards:{folder}").train.shards
        ['train-00000.tar']
    """
    if data.task != "classification":
        raise DataError(f"{data.name} is for {data.task}; shards hold images with one class each")
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [piece for split in data.splits for piece in _pieces(data, split, shard_mb, seed)]
    _agree_on_plan(folder, data, pieces)
    counter = CorruptImageReport(sum(map(len, data.splits.values())), report=report, data=data.name)
    done: list[Written] = []
    total = sum(len(piece.indices) for piece in pieces)
    for piece, written in zip(pieces, _written(data, folder, pieces, workers), strict=True):
        counter.add(written.corrupt)
        done.append(written)
        if progress is not None:
            progress(sum(len(p.indices) for p in pieces[: len(done)]), total)
        assert len(written.records.labels) + len(written.corrupt) == len(piece.indices)
    _finish(folder, data, pieces, done)
    return _summary(folder, data, pieces, done)


def _pieces(data: Data, split: str, shard_mb: float, seed: int) -> Iterator[Piece]:
    """Yield shards with equal numbers of images, about as large as requested."""
    source = data.splits[split]
    order = torch.randperm(len(source), generator=generator("sharding", seed, split)).numpy()
    sizes = []
    for index in order[:SAMPLED]:
        try:
            sizes.append(len(_file_of(source, int(index)).content))
        except CorruptImage:
            continue
    each = max(1, int(shard_mb * 1e6 / (np.mean(sizes) if sizes else 1e5)))
    for number, indices in enumerate(np.array_split(order, -(-len(order) // each))):
        yield Piece(split, f"{split}-{number:05d}.tar", indices)


def _agree_on_plan(folder: Path, data: Data, pieces: list[Piece]) -> None:
    """Refuse a folder with an unfinished set of other shards.

    Raises:
        DataError: The folder holds another plan or foreign archives.
    """
    digest = hashlib.sha256(repr((FORMAT, data.classes)).encode())
    for piece in pieces:
        source = data.splits[piece.split]
        digest.update(piece.name.encode() + source.labels[piece.indices].tobytes())
        for index in piece.indices:
            digest.update(source.locate(int(index)).encode("utf-8", "surrogateescape") + b"\0")
    plan, path = {"format": FORMAT, "of": data.name, "sha256": digest.hexdigest()}, folder / PLAN
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != plan:
        raise DataError(f"{folder} holds other shards, of other images or options; choose another --out")
    if not path.is_file() and any(folder.glob("*.tar")):
        raise DataError(f"{folder} holds archives of another program than `senet shard`; choose another --out")
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(plan), encoding="utf-8"))


def _written(data: Data, folder: Path, pieces: list[Piece], workers: int | None) -> Iterator[Written]:
    workers = default_workers() if workers is None else workers
    if workers == 0 or len(pieces) == 1:
        for piece in pieces:
            yield _write(data.splits[piece.split], folder, piece)
        return
    with ProcessPoolExecutor(workers, initializer=_receive, initargs=(data.splits, folder, os.getpid())) as pool:
        try:
            yield from pool.map(_write_received, pieces)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_received: dict[str, Any] = {}
"""Splits and folder of a worker process, sent to it once."""


def _receive(splits: dict[str, Source], folder: Path, parent: int) -> None:
    quiet_pillow()
    _received.update(splits=splits, folder=folder)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent was killed. The pool's own mechanism would keep it running."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _write_received(piece: Piece) -> Written:
    return _write(_received["splits"][piece.split], _received["folder"], piece)


def _write(source: Source, folder: Path, piece: Piece) -> Written:
    """Write one shard and then the table of its images, or reuse both from an earlier call."""
    path, table = folder / piece.name, _table(folder, piece)
    if path.is_file() and table.is_file():
        try:
            return _finished(path, table)
        except (ValueError, KeyError, OSError):
            pass  # unusable, so it is written again
    rows: list[tuple[int, int, int, int, str]] = []
    corrupt: list[tuple[str, str]] = []

    def fill(temporary: Path) -> None:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive:
            for index in map(int, piece.indices):
                try:
                    stored = _file_of(source, index)
                    _check_decodes(stored)
                except CorruptImage as error:
                    corrupt.append((error.path, error.reason))
                    continue
                label = int(source.labels[index])
                offset = _add(archive, f"{index:09d}", stored, label)
                rows.append((offset, len(stored.content), label, zlib.crc32(stored.content), source.entry(index).path))

    write_atomically(path, fill)
    numbers = [np.array([row[column] for row in rows], dtype=np.int64) for column in range(4)]
    records = ImageRecords(*numbers[:3], numbers[3].astype(np.uint32), PathList(row[4] for row in rows))  # type: ignore[call-arg, arg-type]
    extra = {"corrupt": np.array(corrupt, dtype=np.str_).reshape(-1, 2), "bytes": np.array(path.stat().st_size)}
    write_atomically(table, lambda temporary: records.write(temporary, **extra))
    return Written(records, corrupt, reused=False)


def _finished(path: Path, table: Path) -> Written:
    content = table.read_bytes()
    records = ImageRecords.read(content)
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        if int(arrays["bytes"]) != path.stat().st_size:
            raise ValueError("the table belongs to another shard")
        return Written(records, [(str(name), str(reason)) for name, reason in arrays["corrupt"]], reused=True)


def _file_of(source: Source, index: int) -> Stored:
    """Return an image's file, or a PNG for an image in memory."""
    stored = source.stored(index)
    if stored is None:
        content = io.BytesIO()
        source[index][0].save(content, "PNG")
        stored = Stored(source.locate(index), bytearray(content.getvalue()))
    return stored


def _check_decodes(stored: Stored) -> None:
    """Raise a `CorruptImage` if an image can be decoded neither as RGB or grey nor with any channels."""
    try:
        decode_stored(stored)
    except CorruptImage:
        read_bands(stored)


def _add(archive: tarfile.TarFile, key: str, stored: Stored, label: int) -> int:
    """Add an image and its class number in WebDataset's format, and return the image's offset."""
    start = bytes(stored.content[:4])
    if is_array(stored.content):
        image_format = "npy"
    else:
        image_format = "tiff" if start in TIFF_MAGIC else opened(io.BytesIO(stored.content)).format or "img"
    members = ((SUFFIXES.get(image_format, image_format.lower()), stored.content), ("cls", str(label).encode()))
    offset = archive.offset + tarfile.BLOCKSIZE
    for suffix, content in members:
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return offset


def _table(folder: Path, piece: Piece) -> Path:
    return folder / f".{piece.name}.npz"


def _finish(folder: Path, data: Data, pieces: list[Piece], done: list[Written]) -> None:
    """Write one table for each split, then the index, so that an index implies a complete set."""
    splits = {}
    for split in data.splits:
        mine = [(piece, written.records) for piece, written in zip(pieces, done, strict=True) if piece.split == split]
        table = folder / f"{split}.npz"
        write_atomically(table, ImageRecords.joined([records for _, records in mine]).write)
        splits[split] = {
            "table": table.name,
            "sha256": hashlib.sha256(table.read_bytes()).hexdigest(),
            "shards": [
                {"name": piece.name, "images": len(records.labels), "bytes": (folder / piece.name).stat().st_size}
                for piece, records in mine
            ],
        }
    left_out = [list(issue) for written in done for issue in written.corrupt]
    index = {"format": FORMAT, "of": data.name, "classes": data.classes, "splits": splits, "left_out": left_out}
    text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    write_atomically(folder / INDEX, lambda path: path.write_text(text, encoding="utf-8"))


def _summary(folder: Path, data: Data, pieces: list[Piece], done: list[Written]) -> ShardSummary:
    images = dict.fromkeys(data.splits, 0)
    shards = dict.fromkeys(data.splits, 0)
    for piece, written in zip(pieces, done, strict=True):
        images[piece.split] += len(written.records.labels)
        shards[piece.split] += 1
    return ShardSummary(
        images, shards, sum((folder / piece.name).stat().st_size for piece in pieces) / 1e6,
        sum(written.reused for written in done), [issue for written in done for issue in written.corrupt],
    )  # fmt: skip
