"""Images that are in memory, and writing a source's images as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from senet.data.images import ImageInfo, image_info
from senet.data.listing import Entry
from senet.data.sources import Source

__all__ = ["MemorySource", "write_images"]


class MemorySource:
    """Labelled pictures that are in memory, such as torchvision's small data sets.

    Args:
        pictures: A row whose items start with a PIL image; the other parts of an item aren't used.
        labels: One class number an image.
        name: What to call the row in messages.
    """

    def __init__(self, pictures: Any, labels: Any, *, name: str) -> None:
        self.pictures = pictures
        self.labels = np.asarray(labels, dtype=np.int64)
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.pictures[index][0], int(self.labels[index])

    def stored(self, index: int) -> None:
        """There is no file."""

    def locate(self, index: int) -> str:
        """The row's name and the number of the image."""
        return f"{self.name} image {index}"

    def info(self, index: int) -> ImageInfo:
        """The form in memory."""
        return image_info(self[index][0])

    def entry(self, index: int) -> Entry:
        """The row's name with the number of the image, and its class number."""
        return Entry(self.locate(index), 0, str(self.labels[index]))


def write_images(source: Source, folder: str | os.PathLike[str], *, classes: Sequence[str]) -> list[Path]:
    """Write a source's images as `FOLDER/CLASS/NUMBER.png`, which `folder:` reads; returns the paths.

    Raises:
        CorruptImage: An image can't be read.
    """
    paths = []
    for index in range(len(source)):
        image, label = source[index]
        path = Path(folder) / classes[label] / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        paths.append(path)
    return paths
