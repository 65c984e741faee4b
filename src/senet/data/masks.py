"""Pictures with masks: in each pixel of a mask stands the number of its class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from senet.data.boxes import image_size
from senet.data.dense import AnnotationIssue, Target
from senet.data.images import CorruptImage, ImageInfo, Stored, decode_image, file_info, read_stored
from senet.data.listing import Entry, file_size, path_below
from senet.data.mask_files import IGNORE_INDEX, MOST_CLASSES, read_mask
from senet.data.parts import divide, find_names, images_in, listed_parts, read_lines, unread_in
from senet.data.request import Request
from senet.data.sources import Data, PathList
from senet.errors import DataError

__all__ = ["IGNORE_INDEX", "MaskSource", "open_masks", "read_mask"]

LAYOUT = "expected images/NAME.jpg and masks/NAME.png, and train.txt, val.txt, test.txt beside them"


def open_masks(request: Request) -> Data:
    """Read `masks:PATH`: pictures in `images`, masks with the same names in `masks`.

    A mask has one channel: class numbers from 0, and 255 where nothing is said (as in Pascal VOC); palettes count as
    numbers. With `instances`, any number above 0 is one object of the second class. All masks are read once.

    Raises:
        DataError: The folder isn't there, or nobody says what the classes are.
    """
    root = request.existing_folder(LAYOUT)
    pictures, masks = images_in(root / "images"), images_in(root / "masks")
    classes = request.classes or _named_classes(root, instances=request.instances)
    parts, split = listed_parts([root]), None
    if parts:
        request.refuse_split("it has its own lists of pictures")
        find_names(parts, pictures, root / "images")
    else:
        parts, split = divide(list(pictures), request), request.split
    find_names(parts, masks, root / "masks")
    if len(classes) < 2 or (request.instances and len(classes) != 2):
        raise DataError(f"classes {', '.join(classes)}: name two, the background first (--instances takes no more)")
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{len(classes)} classes are too many: masks have at most {MOST_CLASSES}, since {IGNORE_INDEX} is void"
        )
    sources = {
        part: MaskSource(
            [pictures[name] for name in names],
            [masks[name] for name in names],
            len(classes),
            request.instances,
            root=root,
        )
        for part, names in parts.items()
    }
    return Data(
        request.name, classes, sources["train"], sources["val"], sources.get("test"), task="segmentation", split=split,
        left_out=unread_in(root / "images") + unread_in(root / "masks"),
    )  # fmt: skip


def _named_classes(root: Path, *, instances: bool) -> tuple[str, ...]:
    if (root / "classes.txt").is_file():
        return tuple(read_lines(root / "classes.txt"))
    if instances:
        return "background", "object"
    raise DataError(
        f"{root} doesn't say what its masks' numbers mean: write the names into {root / 'classes.txt'}, one a line "
        "from number 0, or --class-names background,cat,dog; --instances if each number is a single object"
    )


class ScanResult(NamedTuple):
    """What came of reading one mask.

    Attributes:
        size: Width and height of its picture; zeros if that can't be read.
        present: (classes + 1,) bool: which classes are in the mask, and last whether somewhere nothing is said.
        issue: What is wrong with it.
    """

    size: tuple[int, int]
    present: np.ndarray
    issue: AnnotationIssue | None = None


class MaskSource:
    """Picture files and mask files; every mask is read once, to find what is wrong before a training does.

    Args:
        pictures: The pictures.
        masks: Their masks.
        classes: Number of classes.
        instances: Any number above 0 is the second class.
        root: The folder below which paths name pictures and masks.
    """

    def __init__(
        self,
        pictures: Sequence[Path],
        masks: Sequence[Path],
        classes: int,
        instances: bool,
        *,
        root: Path | None = None,
    ) -> None:
        self.root = root
        self.paths, self.masks = PathList(pictures), PathList(masks)
        self.classes, self.instances = classes, instances
        self.labels = np.zeros(len(pictures), dtype=np.int64)
        with ThreadPoolExecutor() as pool:
            looked = list(pool.map(self._look, range(len(pictures))))
        self.sizes = np.array([one.size for one in looked], dtype=np.int64).reshape(-1, 2)
        self.issues = [one.issue for one in looked if one.issue is not None]
        self.present = np.array([one.present for one in looked]).reshape(-1, classes + 1)
        """(N, classes + 1) bool: which classes are in each mask, and last whether somewhere nothing is said."""

    def _look(self, index: int) -> ScanResult:
        size = image_size(Path(self.paths[index]))
        present = np.zeros(self.classes + 1, dtype=bool)
        try:
            mask = read_mask(self.masks[index], self.classes, instances=self.instances)
        except CorruptImage as error:
            return ScanResult(size, present, AnnotationIssue(error.path, error.reason))
        numbers = np.unique(mask)
        present[np.where(numbers == IGNORE_INDEX, self.classes, numbers)] = True
        height, width = mask.shape
        if size not in ((0, 0), (width, height)):
            reason = f"{width}x{height}, but its picture {self.paths[index]} is {size[0]}x{size[1]}"
            return ScanResult(size, present, AnnotationIssue(self.masks[index], reason))
        return ScanResult(size, present)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        image = decode_image(self.paths[index])
        return image, {"mask": read_mask(self.masks[index], self.classes, instances=self.instances)}

    def stored(self, index: int) -> Stored:
        """The picture's bytes."""
        return read_stored(self.paths[index])

    def locate(self, index: int) -> str:
        """The picture's path."""
        return self.paths[index]

    def info(self, index: int) -> ImageInfo:
        """The picture's stored form."""
        return file_info(self.paths[index])

    def entry(self, index: int) -> Entry:
        """Path below the root and size, both of the picture and of its mask."""
        path, mask = self.paths[index], self.masks[index]
        target = f"{path_below(mask, self.root)} {file_size(mask)}{' instances' * self.instances}"
        return Entry(path_below(path, self.root), file_size(path), target)

    def counts(self, classes: int) -> list[int]:
        """Pictures that have something of each class."""
        return self.present.sum(axis=0)[:classes].tolist()
