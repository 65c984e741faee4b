"""Streams of `datasets`: files that are read from their beginning, in an order that (seed, epoch) determines."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from senet.data.images import ImageInfo, Stored, decode_stored, stored_info
from senet.data.listing import Entry
from senet.data.randomness import generator
from senet.errors import DataError

if TYPE_CHECKING:
    from senet.data.hugging_face import CellReader

__all__ = ["DEFAULT_WINDOW", "StreamSource", "label_column"]

DEFAULT_WINDOW = 1000

ROWS = 1000


class StreamSource:
    """The images of one split of a stream (`datasets.IterableDataset`), as far as possible in the stream's order.

    Training takes the stream's files in random order, and shuffles each `window` of successive rows. A process keeps
    the images of one window in memory, undecoded. The order follows from (seed, epoch) alone, so that any number of
    workers and processes, and any interruption, give the same batches. A resumed epoch reads one file up to its place.
    In return each worker and process reads all files.

    Args:
        stream: The image column only, not decoded.
        labels: (N,) class numbers, in the stream's order.
        lengths: Rows of each file.
        reader: Reader of the cells.
        split: Name of the split, for messages.
        window: Rows that are shuffled together.
    """

    sequential = True

    def __init__(
        self, stream: Any, labels: np.ndarray, lengths: list[int], *, reader: CellReader, split: str, window: int
    ) -> None:
        self.stream = stream
        (self.column,) = stream.column_names
        self.labels = labels
        self.starts = np.cumsum([0, *lengths])
        self.reader = reader
        self.split = split
        self.window = window
        self._forget()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return decode_stored(self.stored(index)), int(self.labels[index])

    def __getstate__(self) -> dict[str, Any]:
        here = ("_lock", "_windows", "_cells", "_place")  # of this process
        return {name: value for name, value in self.__dict__.items() if name not in here}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def stored(self, index: int) -> Stored:
        """Return the image's bytes. Of one window this is fast, and of the next one nearly as fast.

        Raises:
            CorruptImage: There are none.
            DataError: The stream has fewer rows than before.
        """
        file = int(np.searchsorted(self.starts, index, side="right")) - 1
        window, row = divmod(index - int(self.starts[file]), self.window)
        if self._pid != os.getpid():  # a forked worker: its open files have the position of the main process
            self._forget()
        with self._lock:
            if self._place != (file, window):
                self._read(file, window)
            cells = self._cells
        if row >= len(cells):
            raise DataError(f"{self.reader.name}: file {file} of {self.split!r} has fewer rows than when it was opened")
        return self.reader.stored(cells[row], self._row(index))

    def locate(self, index: int) -> str:
        """Return the data's name and the number of the row."""
        return f"{self.reader.name}: {self._row(index)}"

    def info(self, index: int) -> ImageInfo:
        """Decode the image and describe its stored form."""
        return stored_info(self.stored(index))

    def entry(self, index: int) -> Entry:
        """Return the place's last name with the number of the row, no size, and its class number: no image is read."""
        return Entry(f"{self.reader.title} {self._row(index)}", 0, str(self.labels[index]))

    def order(self, seed: int, epoch: int) -> torch.Tensor:
        """Return an epoch's order, for `TrainBatchSampler`."""
        randomness = generator("stream", seed, epoch)
        parts = []
        for file in torch.randperm(len(self.starts) - 1, generator=randomness).tolist():
            for start in range(int(self.starts[file]), int(self.starts[file + 1]), self.window):
                rows = min(self.window, int(self.starts[file + 1]) - start)
                parts.append(start + torch.randperm(rows, generator=randomness))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _row(self, index: int) -> str:
        return f"row {index} of {self.split}"

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._place: tuple[int, int] | None = None
        self._windows: Iterator[Any] = iter(())
        self._cells: list[Any] = []

    def _read(self, file: int, window: int) -> None:
        """Read a window: the next one of the open file, or any other from the file's beginning."""
        if self._place != (file, window - 1):
            rows = self.stream.shard(num_shards=len(self.starts) - 1, index=file).skip(window * self.window)
            self._windows = rows.iter(self.window)  # `iter(rows)` would divide them among a loader's workers
        self._place = None  # until the window is complete
        self._cells = next(self._windows, {self.column: []})[self.column]
        self._place = (file, window)


def label_column(stream: Any, column: str) -> tuple[np.ndarray, list[int]]:
    """Read a stream's labels once, by a pass over all files with the label column selected.

    Returns:
        The (N,) labels, and the rows of each file.
    """
    values: list[Any] = []
    lengths = []
    labels = stream.select_columns([column])
    for file in range(stream.num_shards):
        before = len(values)
        for batch in labels.shard(num_shards=stream.num_shards, index=file).iter(batch_size=ROWS):
            values += batch[column]
        lengths.append(len(values) - before)
    return np.array(values), lengths
