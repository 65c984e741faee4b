"""Images with boxes: the source behind `voc:` and `coco:`, and checks of their boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from senet.data.dense import AnnotationIssue, Target, object_counts
from senet.data.images import CorruptImage, ImageInfo, Stored, decode_image, file_info, read_stored, upright_size
from senet.data.listing import Entry, file_size, path_below
from senet.data.sources import PathList

__all__ = ["BoxSample", "BoxSource", "checked_boxes", "checked_size", "image_size"]


class BoxSample(NamedTuple):
    """One image's boxes.

    Attributes:
        path: The image.
        boxes: (n, 4) float32 x1, y1, x2, y2 in pixels of the image.
        labels: (n,) int64 class numbers.
        crowd: (n,) bool: groups of objects, as in COCO.
        difficult: (n,) bool: objects that count neither as found nor as missed, as in VOC.
        size: Width and height in pixels, or zeros if the image is unreadable.
    """

    path: Path
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    size: tuple[int, int]


class BoxSource:
    """Image files and their boxes.

    Args:
        rows: One for each image.
        issues: Issues of the annotations.
        root: Root folder of the data set. Paths in the data's digest are relative to it.
    """

    def __init__(
        self, rows: Sequence[BoxSample], issues: Sequence[AnnotationIssue] = (), *, root: Path | None = None
    ) -> None:
        self.root = root
        self.paths = PathList(row.path for row in rows)
        self.labels = np.zeros(len(rows), dtype=np.int64)
        self.sizes = np.array([row.size for row in rows], dtype=np.int64).reshape(-1, 2)
        self.issues = list(issues)
        self._ends = np.cumsum([0, *(len(row.labels) for row in rows)])
        self._boxes = np.concatenate([np.zeros((0, 4), np.float32), *(row.boxes for row in rows)])
        self._labels = np.concatenate([np.zeros(0, np.int64), *(row.labels for row in rows)])
        self._crowd = np.concatenate([np.zeros(0, bool), *(row.crowd for row in rows)])
        self._difficult = np.concatenate([np.zeros(0, bool), *(row.difficult for row in rows)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        return decode_image(self.paths[index]), self.target(index)

    def target(self, index: int) -> Target:
        """Return the boxes of one image without decoding it."""
        index %= len(self)
        own = slice(self._ends[index], self._ends[index + 1])
        flags = {"crowd": self._crowd[own], "difficult": self._difficult[own]}
        return {"boxes": self._boxes[own], "labels": self._labels[own], **flags}

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
        """Return path below the root, size, and a hash of the boxes."""
        path, found = self.paths[index], hashlib.sha256()
        for key, values in sorted(self.target(index).items()):
            found.update(key.encode() + values.tobytes())
        return Entry(path_below(path, self.root), file_size(path), found.hexdigest())

    def counts(self, classes: int) -> list[int]:
        """Count the boxes of each class, without crowds and difficult objects."""
        return object_counts([self._labels[~(self._crowd | self._difficult)]], classes)


def image_size(path: Path) -> tuple[int, int]:
    """Read width and height of the upright image from its header, or zeros if it is unreadable."""
    try:
        return upright_size(path)
    except CorruptImage:
        return 0, 0


def checked_size(path: Path, declared: tuple[Any, Any], where: str) -> tuple[tuple[int, int], list[AnnotationIssue]]:
    """Return width and height of an image, and an issue if its annotation has another size.

    Boxes drawn on a larger or rotated image would lie elsewhere on this one.

    Args:
        path: The image.
        declared: Width and height by the annotation. Values other than positive numbers are ignored.
        where: The annotation file.
    """
    size = image_size(path)
    known = all(type(edge) in (int, float) and edge > 0 for edge in declared)
    if not known or size == (0, 0) or tuple(declared) == size:
        return size, []
    reason = f"its annotation is for {declared[0]:.16g}x{declared[1]:.16g} pixels, {path.name} has {size[0]}x{size[1]}"
    if tuple(declared)[::-1] == size:
        reason += "; if its EXIF orientation rotates it, save it rotated (or without this tag)"
    return size, [AnnotationIssue(where, f"{reason}; its boxes would lie elsewhere")]


def checked_boxes(
    boxes: np.ndarray, size: tuple[int, int], where: str, names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, list[AnnotationIssue]]:
    """Cut boxes to their image and find the boxes that are left without area.

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        size: Width and height. Zeros mean unknown, and only the boxes' own area is checked.
        where: The annotation file.
        names: (n) the class of each box, for messages.

    Returns:
        The boxes, (n,) whether each is usable, and the issues.
    """
    issues = []
    usable = np.ones(len(boxes), dtype=bool)
    cut = boxes.copy()
    width, height = size
    if width and height:
        cut = np.stack([cut[:, 0].clip(0, width), cut[:, 1].clip(0, height),
                        cut[:, 2].clip(0, width), cut[:, 3].clip(0, height)], 1)  # fmt: skip
    for number, (box, part, name) in enumerate(zip(boxes, cut, names, strict=True)):
        described = f"{name} box {_shown(box)}"
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            usable[number] = False
            issues.append(AnnotationIssue(where, f"{described} has no area; left out", fatal=False))
        elif part[2] <= part[0] or part[3] <= part[1]:
            usable[number] = False
            issues.append(
                AnnotationIssue(where, f"{described} lies outside its {width}x{height} image; left out", fatal=False)
            )
        elif np.abs(part - box).max() > 1:  # formats differ by one pixel
            issues.append(
                AnnotationIssue(
                    where, f"{described} reaches outside its {width}x{height} image; cut to it", fatal=False
                )
            )
    return cut.astype(np.float32), usable, issues


def _shown(box: np.ndarray) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"
