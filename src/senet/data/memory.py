"""Images in memory, and writing the images of a source as files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from senet.data.images import ImageInfo, image_info
from senet.data.labels import as_labels, label_text, target_of
from senet.data.listing import Entry
from senet.data.sources import Source

__all__ = ["MemorySource", "write_images"]


class MemorySource:
    """Labelled images in memory, such as torchvision's small data sets.

    Args:
        images: Items that start with a PIL image. The rest of an item isn't used.
        labels: One class number for each image, or (N, classes) of 0 and 1 for multi-label images.
        name: Name of the source in messages.

    Example:
        >>> from PIL import Image
        >>> from senet.data import MemorySource
        >>> source = MemorySource([(Image.new("L", (8, 8)),), (Image.new("L", (8, 8)),)], [0, 1], name="squares")
        >>> len(source), source[1][1], source.locate(1)
        (2, 1, 'squares image 1')
    """

    def __init__(self, images: Any, labels: Any, *, name: str) -> None:
        self.images = images
        self.labels = as_labels(labels)
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return self.images[index][0], target_of(self.labels, index)

    def stored(self, index: int) -> None:
        """Return None: there is no file."""

    def locate(self, index: int) -> str:
        """Return the source's name and the number of the image."""
        return f"{self.name} image {index}"

    def info(self, index: int) -> ImageInfo:
        """Describe the image in memory."""
        return image_info(self[index][0])

    def entry(self, index: int) -> Entry:
        """Return the source's name with the number of the image, and its class numbers."""
        return Entry(self.locate(index), 0, label_text(self.labels, index))


def write_images(source: Source, folder: str | os.PathLike[str], *, classes: Sequence[str]) -> list[Path]:
    """Write a source's images as `FOLDER/CLASS/NUMBER.png`, which `folder:` reads, and return the paths.

    Raises:
        CorruptImage: An image is unreadable.

    Example:
        >>> import tempfile
        >>> from senet.data import open_data, subsample, write_images
        >>> data, folder = open_data("digits"), tempfile.mkdtemp()
        >>> paths = write_images(subsample(data.val, 20), folder, classes=data.classes)
        >>> len(paths), paths[0].parent.name in data.classes
        (20, True)
    """
    paths = []
    for index in range(len(source)):
        image, label = source[index]
        path = Path(folder) / classes[label] / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        paths.append(path)
    return paths
