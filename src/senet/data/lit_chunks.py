"""Data sets of litdata, from a folder or an object store (`litdata:`), with only inert contents."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from senet.data.images import ImageInfo, Stored, decode_stored, image_info, stored_info
from senet.data.listing import Entry
from senet.data.randomness import generator
from senet.data.request import DEFAULT_ROOT, Request, absolute_path
from senet.data.shards import shard_order
from senet.data.sources import Data
from senet.data.tables import class_numbers, divided, pick_column, place_and_options
from senet.errors import DataError
from senet.extras import need
from senet.weights.files import write_atomically

__all__ = ["ChunkIndex", "ChunkReader", "ChunkSource", "open_litdata"]

OPTIONS = ("image", "label")

INDEX = "index.json"

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Sub-folders that hold a split. Without `train` the place itself holds all images."""

FILES = ("jpeg", "image", "bytes", "file")
"""Formats of an image that are its file, byte for byte."""

LABELS = ("int", "str", "bool")

KEPT_AS_BYTES = (*FILES, "text", "float", "numpy", "no_header_numpy", "tensor", "no_header_tensor", "json")
"""Inert formats that litdata hands over as bytes here: a decoder that isn't needed doesn't run."""

INERT = (*KEPT_AS_BYTES, *LABELS, "pil")

UNSAFE = ("pickle", "graph")
"""Formats whose decoders unpickle. They are refused, and replaced beside that."""

CONTAINERS = ("builtins.dict", "builtins.list", "builtins.tuple")

PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""A chunk lies in the index's own folder."""


@dataclass(frozen=True)
class ChunkIndex:
    """The checked `index.json` of one split.

    Attributes:
        place: Folder or `s3://` address.
        digest: SHA-256 of the file, in hexadecimal.
        formats: litdata's format of each field, by the field's name.
        sizes: Images in each chunk.
    """

    place: str
    digest: str
    formats: dict[str, str]
    sizes: tuple[int, ...]

    @classmethod
    def read(cls, place: str, content: bytes) -> ChunkIndex:
        """Check an index before litdata reads it.

        Raises:
            DataError: It isn't an index of `litdata.optimize`, or a format, a name or an option isn't supported.
        """
        try:
            index = json.loads(content)
            config, chunks = index["config"], index["chunks"]
            fields = _fields(place, config["data_spec"], config["data_format"])
            sizes = tuple(int(chunk["chunk_size"]) for chunk in chunks)
            names = [str(chunk["filename"]) for chunk in chunks]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise DataError(f"{place}/{INDEX} isn't an index of `litdata.optimize`: {error!r}") from error
        for field, kind in fields.items():
            if kind not in INERT:
                why = "which can run code" if kind in UNSAFE else "which isn't supported"
                raise DataError(
                    f"{place} stores {field!r} as {kind}, {why}; write it as one of {', '.join(INERT)}, or leave it out"
                )
        if config.get("encryption") or config.get("item_loader", "PyTreeLoader") != "PyTreeLoader":
            raise DataError(f"{place} is encrypted, or made for {config.get('item_loader')}; neither is supported")
        wrong = next((name for name in names if not PLAIN_NAME.fullmatch(name)), None)
        if wrong is not None or min(sizes, default=0) < 1:
            raise DataError(f"{place}/{INDEX}: {wrong!r} can't be a chunk in its own folder, or a chunk is empty")
        return cls(place, hashlib.sha256(content).hexdigest(), fields, sizes)


def _fields(place: str, spec: str, formats: list[str]) -> dict[str, str]:
    """Return the format of each field of an item: a dictionary, list or tuple of plain values."""
    tree = json.loads(spec)[1]
    if tree["type"] not in CONTAINERS or any(child["type"] is not None for child in tree["children_spec"]):
        raise DataError(f"{place}: an item must be a dictionary, list or tuple of plain values, not nested")
    count = len(tree["children_spec"])
    names = json.loads(tree["context"]) if tree["type"] == CONTAINERS[0] else list(range(count))
    if not count == len(names) == len(formats):
        raise ValueError("its fields and formats differ in number")
    return {str(name): kind.partition(":")[0] for name, kind in zip(names, formats, strict=True)}


class ChunkReader:
    """Read the items of a split with litdata's `StreamingDataset`, opened anew in each process.

    litdata downloads a chunk on its first use and keeps it in its own cache (`LITDATA_CACHE_DIR`).
    """

    def __init__(self, index: ChunkIndex) -> None:
        self.index = index
        self._dataset: Any = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[type[ChunkReader], tuple[ChunkIndex]]:
        return ChunkReader, (self.index,)

    def item(self, index: int) -> dict[str, Any]:
        """Read an item. A slice makes litdata fetch the whole chunk, and a number one item by two requests.

        Raises:
            OSError: The object store or the disk failed, or a chunk is damaged.
            DataError: The index has changed.
        """
        if self._pid != os.getpid():  # a forked worker: the threads of litdata stayed in the main process
            self.__init__(self.index)  # type: ignore[misc]
        with self._lock:
            try:
                if self._dataset is None:
                    self._dataset = _dataset(self.index)
                (item,) = self._dataset[index : index + 1]
            except DataError:
                raise
            except Exception as error:  # litdata's own kinds are many, and none of them is about one image
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise OSError(f"{self.index.place}: item {index} can't be read by litdata: {lines[0]}") from error
        return item if isinstance(item, dict) else {str(number): value for number, value in enumerate(item)}

    def scanned(self, image: str, label: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the label and the image's size of each item, from all items or from an earlier scan."""
        key = hashlib.sha256(repr((self.index.digest, self.index.place, image, label)).encode())
        path = DEFAULT_ROOT.expanduser() / "litdata" / f"{key.hexdigest()[:32]}.npz"
        count = sum(self.index.sizes)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values, sizes = arrays["values"], arrays["sizes"]
            if len(values) == len(sizes) == count:
                return values, sizes
        except (OSError, ValueError, KeyError):
            pass  # no scan yet, or a damaged one
        labels, lengths = [], []
        for item in map(self.item, range(count)):
            labels.append(item[label])
            pixels = item[image]
            lengths.append(len(pixels) if isinstance(pixels, bytes) else pixels.width * pixels.height)
        values, sizes = np.array(labels), np.array(lengths, dtype=np.int64)
        path.parent.mkdir(parents=True, exist_ok=True)

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez(file, values=values, sizes=sizes)

        write_atomically(path, write)
        return values, sizes


class ChunkSource:
    """The images of one split of litdata's chunks.

    Args:
        reader: Reader of the items.
        labels: (N,) class numbers.
        sizes: (N,) bytes of the images.
        image: Field of the image.
        name: Name of the data and the split, for messages.
    """

    def __init__(self, reader: ChunkReader, labels: np.ndarray, sizes: np.ndarray, *, image: str, name: str) -> None:
        self.reader = reader
        self.labels = labels
        self.sizes = sizes
        self.image = image
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        stored = self.stored(index)
        if stored is not None:
            return decode_stored(stored), int(self.labels[index])
        image = self.reader.item(index)[self.image]
        return image.convert(image.mode if image.mode in ("RGB", "L") else "RGB"), int(self.labels[index])

    def stored(self, index: int) -> Stored | None:
        """Return the image's file, or None for a PIL image, which litdata stores as pixels.

        Raises:
            OSError: The object store or the disk failed, or a chunk is damaged.
        """
        if self.reader.index.formats[self.image] not in FILES:
            return None
        return Stored(self.locate(index), bytearray(self.reader.item(index)[self.image]))

    def locate(self, index: int) -> str:
        """Return the data's name and the number of the item."""
        return f"{self.name} item {index}"

    def info(self, index: int) -> ImageInfo:
        """Decode the image and describe its stored form."""
        stored = self.stored(index)
        return image_info(self[index][0]) if stored is None else stored_info(stored)

    def entry(self, index: int) -> Entry:
        """Return the number of the item, with the image's size and class number."""
        return Entry(f"{index:09d}", int(self.sizes[index]), str(self.labels[index]))

    def order(self, seed: int, epoch: int) -> torch.Tensor:
        """Return an epoch's order, for `TrainBatchSampler`: few chunks at a time, as for `shards:`."""
        starts = torch.tensor([0, *np.cumsum(self.reader.index.sizes)])
        return shard_order(starts, generator("shards", seed, epoch))


def open_litdata(request: Request) -> Data:
    """Read `litdata:PLACE?OPTIONS`, the output of `litdata.optimize`, in a folder or at `s3://BUCKET/NAME`.

    `PLACE` holds `index.json`, or the sub-folders `train`, `val` and `test` with one each. Options: the fields `image`
    and `label`. Labels are read once, by reading all items, and kept below `~/.cache/senet/data`.

    Raises:
        SenetError: litdata isn't installed.
        DataError: The data can't be used, or holds pickled items. The message names a remedy.
    """
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")  # otherwise it asks pypi.org at each start
    need("litdata", "litdata:PLACE", extra="litdata")
    place, options = place_and_options(request, OPTIONS)
    if "://" in place and not place.startswith("s3://"):
        raise DataError(f"{request.name}: litdata:PLACE reads a folder or s3://BUCKET/NAME")
    place = place.rstrip("/") if "://" in place else absolute_path(place)
    indices = _indices(request, place)
    fields = indices["train"].formats
    image = pick_column(
        request.name, "image", options.get("image"), [f for f in fields if fields[f] in (*FILES, "pil")], fields
    )
    label = pick_column(request.name, "label", options.get("label"), [f for f in fields if fields[f] in LABELS], fields)
    if fields[image] not in (*FILES, "pil") or fields[label] not in LABELS:
        raise DataError(
            f"{request.name}: an image is stored as {', '.join(FILES)} or pil, and a label as {', '.join(LABELS)}; but "
            f"{image!r} is {fields[image]}, and {label!r} is {fields[label]}"
        )
    for split, index in indices.items():
        if index.formats != fields:
            raise DataError(f"{request.name}: {split} has other fields than train")
    readers = {split: ChunkReader(index) for split, index in indices.items()}
    scans = {split: reader.scanned(image, label) for split, reader in readers.items()}
    classes, numbers = class_numbers(request.name, {split: values for split, (values, _) in scans.items()})
    sources = {
        split: ChunkSource(reader, numbers[split], scans[split][1], image=image, name=f"{request.name} {split}")
        for split, reader in readers.items()
    }
    return divided(request, classes, sources)


def _indices(request: Request, place: str) -> dict[str, ChunkIndex]:
    found: dict[str, ChunkIndex] = {}
    for split, names in SPLITS.items():
        for name in names:
            content = _index_bytes(f"{place}/{name}")
            if content is not None:
                found[split] = ChunkIndex.read(f"{place}/{name}", content)
                break
        if "train" not in found:
            break
    if found:
        return found
    content = _index_bytes(place)
    if content is None:
        raise DataError(f"{request.name}: neither {place} nor {place}/train has an {INDEX} of `litdata.optimize`")
    return {"train": ChunkIndex.read(place, content)}


def _index_bytes(place: str) -> bytes | None:
    """Return the bytes of an index, or None if there is none.

    Raises:
        DataError: The store can't be reached, or refuses.
    """
    if not place.startswith("s3://"):
        try:
            return Path(place, INDEX).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{place}/{INDEX} can't be read: {error.strerror}") from error
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = place.removeprefix("s3://").partition("/")
    waits = Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard", "max_attempts": 2})
    try:
        content: bytes = (
            boto3.client("s3", config=waits).get_object(Bucket=bucket, Key=f"{key}/{INDEX}".lstrip("/"))["Body"].read()
        )
        return content
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code"))
        if code in ("NoSuchKey", "404"):
            return None
        raise DataError(f"{place}/{INDEX}: the object store refuses ({code}); {_ABOUT_STORES}") from error
    except BotoCoreError as error:
        raise DataError(f"{place}/{INDEX} can't be reached: {error}; {_ABOUT_STORES}") from error


_ABOUT_STORES = (
    "AWS_ENDPOINT_URL sets the address; AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the account"
)


def _dataset(index: ChunkIndex) -> Any:
    """Open a split in this process. The index must still be the checked one.

    Raises:
        DataError: The index has changed.
    """
    import litdata
    from litdata.streaming.serializers import Serializer

    class AsBytes(Serializer):
        def serialize(self, data: Any) -> Any:
            raise NotImplementedError

        def deserialize(self, data: Any) -> bytes:
            return bytes(data)

        def can_serialize(self, data: Any) -> bool:  # noqa: ARG002
            return False

    serializers = {kind: AsBytes() for kind in (*KEPT_AS_BYTES, *UNSAFE)}
    storage: Mapping[str, Any] | None = None
    if index.place.startswith("s3://"):
        from botocore.config import Config

        _allow_http()
        storage = {"config": Config(retries={"mode": "standard", "max_attempts": 10})}  # litdata's own are 1,000
    dataset = litdata.StreamingDataset(index.place, serializers=serializers, storage_options=storage, batch_decode=0)
    content = Path(dataset.input_dir.path, INDEX).read_bytes()
    if hashlib.sha256(content).hexdigest() != index.digest:
        raise DataError(f"{index.place}/{INDEX} has changed since it was opened; start again")
    return dataset


def _allow_http() -> None:
    """Let litdata's second client reach a store without TLS, as its first one does: `AWS_ENDPOINT_URL=http://...`."""
    from litdata.streaming import downloader

    options = getattr(downloader, "_OBSTORE_CLIENT_OPTIONS", None)
    if isinstance(options, dict):
        options["allow_http"] = "true"
