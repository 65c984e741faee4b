"""Data sets of the library `datasets`, from disk, from its cache or from the Hugging Face Hub (`hf:`)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from senet.data.images import CorruptImage, ImageInfo, Stored, decode_stored, read_stored, stored_info
from senet.data.listing import Entry, file_size, path_below
from senet.data.place import split_place
from senet.data.request import Request
from senet.data.sources import Data, PathList
from senet.data.streams import DEFAULT_WINDOW, StreamSource, label_column
from senet.data.tables import class_numbers, divided, pick_column, pick_splits, place_and_options
from senet.errors import DataError, shown
from senet.extras import need

__all__ = ["CellReader", "TableSource", "open_hf"]

OPTIONS = ("config", "revision", "train", "val", "test", "image", "label", "streaming")

BUILDERS = ("parquet", "arrow", "imagefolder", "webdataset")
"""Formats with images. No other builder of `datasets` is started."""

SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes, for all splits or for one."""

LABEL_NAMES = ("label", "labels", "class", "target", "cls", "fine_label")

ROWS = 1000


class CellReader:
    """Read the stored image of a cell of a table: its bytes, or else the file that it names.

    Args:
        name: Name of the data, for messages.
        folders: Folders that may hold named files. A table made elsewhere must not name any other file.
    """

    def __init__(self, name: str, folders: tuple[str, ...]) -> None:
        self.name = name
        self.folders = folders

    @property
    def title(self) -> str:
        """The data's name without its location and options."""
        return split_place(self.name.partition(":")[2])[0].rstrip("/").replace(":", "/").rpartition("/")[2]

    def stored(self, cell: Any, row: str) -> Stored:
        """Return the bytes of a cell.

        Raises:
            CorruptImage: It is empty, or names a file outside of the folders.
        """
        cell = {"bytes": cell} if isinstance(cell, bytes) else cell or {}
        if cell.get("bytes"):
            return Stored(f"{self.name}: {row}", bytearray(cell["bytes"]))
        path = cell.get("path")
        if not path:
            raise CorruptImage(f"{self.name}: {row}", "no image")
        if self.root(path) is None:
            raise CorruptImage(f"{self.name}: {row}", f"names a file outside of the data ({shown(path)})")
        return read_stored(path)

    def root(self, path: str) -> str | None:
        """Return the folder that holds a named file, or None if none does."""
        whole = os.path.abspath(path)
        return next((one for one in self.folders if whole.startswith(os.path.join(one, ""))), None)


class TableSource:
    """The images of one split of a table of `datasets`, which is memory-mapped and read at random.

    Args:
        table: `datasets.Dataset` of the image column only, not decoded.
        labels: (N,) class numbers.
        reader: Reader of the cells.
        split: Name of the split, for messages.

    Example:
        >>> from senet.data import open_data
        >>> source = open_data("hf:flowers:label=species").train  # doctest: +SKIP
        >>> source.locate(0)  # doctest: +SKIP
        'hf:flowers:label=species: row 0 of train'
    """

    def __init__(self, table: Any, labels: np.ndarray, *, reader: CellReader, split: str) -> None:
        self.table = table
        (self.column,) = table.column_names
        self.labels = labels
        self.reader = reader
        self.split = split
        self.names, self.sizes = self._listed()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return decode_stored(self.stored(index)), int(self.labels[index])

    def stored(self, index: int) -> Stored:
        """Return the image's bytes.

        Raises:
            CorruptImage: There are none.
        """
        return self.reader.stored(self.table[index][self.column], self._row(index))

    def locate(self, index: int) -> str:
        """Return the data's name and the number of the row, with the image's own name if it has one."""
        name = self.names[index] if self.names else ""
        return f"{self.reader.name}: {self._row(index)}" + (f" ({name})" if name else "")

    def info(self, index: int) -> ImageInfo:
        """Decode the image and describe its stored form."""
        return stored_info(self.stored(index))

    def entry(self, index: int) -> Entry:
        """Return the image's own name, or else the number of the row, with its size and class number."""
        name = self.names[index] if self.names else self._row(index)
        return Entry(name, int(self.sizes[index]), str(self.labels[index]))

    def _row(self, index: int) -> str:
        return f"row {index} of {self.split}"

    def _listed(self) -> tuple[PathList | None, np.ndarray]:
        """Return the images' own names, if each has another one, and their sizes in bytes. No image is read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        names: list[str] = []
        sizes = []
        for batch in self.table.with_format("arrow").iter(ROWS):
            cells = batch.column(self.column).combine_chunks()
            nested = pa.types.is_struct(cells.type)
            content = pc.struct_field(cells, "bytes") if nested else cells
            here = pc.fill_null(pc.binary_length(content), -1).to_numpy(zero_copy_only=False).astype(np.int64)
            paths: list[str] = [path or "" for path in pc.struct_field(cells, "path").to_pylist()] if nested else []
            for row in np.flatnonzero(here < 0) if nested else ():
                here[row] = file_size(paths[row]) if self.reader.root(paths[row]) else -1
            sizes.append(here)
            names += [path_below(path, self.reader.root(path)) for path in paths]
        distinct = len(set(names)) == len(self.labels)
        return PathList(names) if distinct else None, np.concatenate([np.zeros(0, np.int64), *sizes])


def open_hf(request: Request) -> Data:
    """Read `hf:PLACE:OPTIONS` with the library `datasets`.

    `PLACE` is a folder of parquet files, of images or of `save_to_disk`, or a name on the Hugging Face Hub. The Hub is
    reached only for a download or a stream. No code of a data set runs: `datasets` 4 and later has no scripts.

    Options: `config`, `revision`, the splits `train`, `val` and `test`, the columns `image` and `label`, and
    `streaming` or `streaming=WINDOW`, see `StreamSource`.

    Raises:
        SenetError: `datasets` isn't installed.
        DataError: The data or an option can't be used. The message names a remedy.
    """
    datasets = need("datasets", "hf:PLACE", extra="hf")
    place, options = place_and_options(request, OPTIONS)
    window = _window(request.name, options)
    tables, folders = _load(datasets, request, place, options, streaming=window > 0)
    splits = pick_splits(request.name, list(tables), options)
    image, label = _columns(datasets, request.name, tables[splits["train"]].features, options)
    features = tables[splits["train"]].features
    reader = CellReader(request.name, folders)
    plain = datasets.Image(decode=False)
    labels, lengths = {}, {}
    for split, own in splits.items():
        if image not in tables[own].features or label not in tables[own].features:
            raise DataError(f"{request.name}: the split {own!r} lacks a column {image!r} or {label!r}")
        if window:
            labels[split], lengths[split] = label_column(tables[own], label)
        else:
            labels[split] = _values(tables[own], label)
    if "test" not in options and "test" in splits and _unlabelled(labels["test"]):
        del splits["test"], labels["test"]
    names = features[label].names if isinstance(features[label], datasets.ClassLabel) else None
    classes, numbers = class_numbers(request.name, labels, names)
    sources: dict[str, Any] = {}
    for split, own in splits.items():
        table = tables[own].select_columns([image])
        table = table.cast_column(image, plain) if isinstance(features[image], datasets.Image) else table
        if window:
            sources[split] = StreamSource(
                table, numbers[split], lengths[split], reader=reader, split=own, window=window
            )
        else:
            sources[split] = TableSource(table, numbers[split], reader=reader, split=own)
    return divided(request, classes, sources)


def _window(name: str, options: Mapping[str, str]) -> int:
    """Return the number of rows of `streaming`, 0 without it."""
    if "streaming" not in options:
        return 0
    text = options["streaming"] or str(DEFAULT_WINDOW)
    if not text.isdecimal() or int(text) < 1:
        raise DataError(f"{name}: streaming={text} must be a number of rows of at least 1")
    return int(text)


def _load(
    datasets: Any, request: Request, place: str, options: Mapping[str, str], *, streaming: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the tables by split, and the folders that may hold their images."""
    folder = Path(place).expanduser()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; hf:FOLDER reads a folder of parquet files or images")
    if not folder.exists() and (place.count("/") > 1 or place[0] in "./~\\"):
        raise DataError(f"{folder} doesn't exist; hf:FOLDER reads parquet files, images or the output of save_to_disk")
    local, caches = folder.is_dir(), _caches(datasets)
    if local and request.download:
        raise DataError(f"--download has no effect on {request.name}: it is a folder")
    try:
        with _without_network(datasets, local or not (request.download or streaming)):
            if local and any((folder / name).is_file() for name in SAVED):
                return _saved(datasets, request, folder, streaming=streaming), (str(folder.absolute()), *caches)
            builder = datasets.load_dataset_builder(
                str(folder.absolute()) if local else place, options.get("config"), revision=options.get("revision")
            )
            kind = type(builder).__module__.rpartition(".")[2]
            if kind not in BUILDERS:
                raise DataError(f"{request.name} is {kind}; images are read from {', '.join(BUILDERS)}")
            if streaming:
                tables = dict(builder.as_streaming_dataset())
            else:
                builder.download_and_prepare()
                tables = dict(builder.as_dataset())
            return tables, (str(folder.absolute()), *caches) if local else caches
    except DataError:
        raise
    except ConnectionError as error:
        if request.download or streaming:
            raise DataError(f"{request.name} can't be reached: {_line(error)}") from error
        raise DataError(
            f"{request.name} is neither a folder nor in the cache of `datasets`; add --download to fetch it from the "
            "Hugging Face Hub, or read it from there by ':streaming'"
        ) from error
    except (ValueError, OSError, RuntimeError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{request.name} can't be read by `datasets`: {_line(error)}") from error


def _saved(datasets: Any, request: Request, folder: Path, *, streaming: bool) -> dict[str, Any]:
    if streaming:
        raise DataError(f"{request.name}: save_to_disk wrote it memory-mapped already; leave out streaming")
    table = datasets.load_from_disk(str(folder))
    return dict(table) if isinstance(table, dict) else {str(table.split or "train"): table}


def _caches(datasets: Any) -> tuple[str, ...]:
    """Return the folders of downloaded and unpacked files."""
    from huggingface_hub.constants import HF_HUB_CACHE

    known = (datasets.config.DOWNLOADED_DATASETS_PATH, datasets.config.EXTRACTED_DATASETS_PATH, HF_HUB_CACHE)
    return tuple(os.path.abspath(one) for one in known)


@contextmanager
def _without_network(datasets: Any, offline: bool) -> Iterator[None]:
    """Keep `datasets` from the network, as its own HF_HUB_OFFLINE does."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _columns(
    datasets: Any, name: str, features: Mapping[str, Any] | None, options: Mapping[str, str]
) -> tuple[str, str]:
    """Return the columns of the images and of the labels."""
    if features is None:
        raise DataError(f"{name}: this stream doesn't name its columns; leave out streaming")
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    image = pick_column(name, "image", options.get("image"), images, features)
    if not isinstance(features[image], datasets.Image) and getattr(features[image], "dtype", "") not in (
        "binary",
        "large_binary",
    ):
        raise DataError(f"{name}: the column {image!r} holds no images, but {shown(features[image])}")
    labels = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [column for column in features if column.lower() in LABEL_NAMES and column != image]
    return image, pick_column(name, "label", options.get("label"), labels, features)


def _values(table: Any, column: str) -> np.ndarray:
    return np.array(table.select_columns([column]).with_format(None)[column][:])


def _unlabelled(values: np.ndarray) -> bool:
    """Whether a split has no labels, as the test images of a contest, which have the number -1."""
    return values.dtype.kind == "i" and len(values) > 0 and values.max() < 0


def _line(error: BaseException) -> str:
    """Return the last cause of an error, on one line."""
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(cause).__name__
