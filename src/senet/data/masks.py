"""Images with masks: each pixel of a mask is a class number."""

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
from senet.data.listed_splits import divide, find_names, images_in, listed_splits, read_lines, unread_in
from senet.data.listing import Entry, file_size, path_below
from senet.data.mask_files import IGNORE_INDEX, MOST_CLASSES, read_mask
from senet.data.request import Request
from senet.data.sources import Data, PathList
from senet.errors import DataError

__all__ = ["IGNORE_INDEX", "MaskSource", "open_masks", "read_mask"]

LAYOUT = "expected images/NAME.jpg and masks/NAME.png, and train.txt, val.txt, test.txt beside them"


def open_masks(request: Request) -> Data:
    """Read `masks:PATH`: images in `images`, masks with the same names in `masks`.

    A mask has one channel of class numbers from 0, and 255 without a class, as in Pascal VOC. Palettes count as
    numbers. With `instances`, any number above 0 is an object of the second class. All masks are read once.

    Raises:
        DataError: The folder is missing, or the classes are unknown.
    """
    root = request.existing_folder(LAYOUT)
    images, masks = images_in(root / "images"), images_in(root / "masks")
    classes = request.classes or _named_classes(root, instances=request.instances)
    splits, spec = listed_splits([root]), None
    if splits:
        request.refuse_split("it has its own lists of images")
        find_names(splits, images, root / "images")
    else:
        splits, spec = divide(list(images), request)
    find_names(splits, masks, root / "masks")
    if len(classes) < 2 or (request.instances and len(classes) != 2):
        raise DataError(f"classes {', '.join(classes)}: name two, the background first (--instances takes no more)")
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{len(classes)} classes; masks have at most {MOST_CLASSES}, since {IGNORE_INDEX} means no class"
        )
    sources = {
        split: MaskSource(
            [images[name] for name in names],
            [masks[name] for name in names],
            len(classes),
            request.instances,
            root=root,
        )
        for split, names in splits.items()
    }
    return Data(
        request.name, classes, sources["train"], sources["val"], sources.get("test"), task="segmentation",
        split_spec=spec, left_out=unread_in(root / "images") + unread_in(root / "masks"),
    )  # fmt: skip


def _named_classes(root: Path, *, instances: bool) -> tuple[str, ...]:
    if (root / "classes.txt").is_file():
        return tuple(read_lines(root / "classes.txt"))
    if instances:
        return "background", "object"
    raise DataError(
        f"{root} has no names for its class numbers: write them into {root / 'classes.txt'}, one a line "
        "from number 0, or --class-names background,cat,dog; use --instances if each number is a single object"
    )


class MaskScan(NamedTuple):
    """Result of reading one mask.

    Attributes:
        size: Width and height of its image, or zeros if the image is unreadable.
        present: (classes + 1,) bool: the classes in the mask, then whether some pixels have no class.
        issue: Issue of the mask, if any.
    """

    size: tuple[int, int]
    present: np.ndarray
    issue: AnnotationIssue | None = None


class MaskSource:
    """Image files and mask files. Every mask is read once, to find issues before a training does.

    Args:
        images: The images.
        masks: Their masks.
        classes: Number of classes.
        instances: Any number above 0 is the second class.
        root: Root folder of the data set. Paths in the data's digest are relative to it.
    """

    def __init__(
        self,
        images: Sequence[Path],
        masks: Sequence[Path],
        classes: int,
        instances: bool,
        *,
        root: Path | None = None,
    ) -> None:
        self.root = root
        self.paths, self.masks = PathList(images), PathList(masks)
        self.classes, self.instances = classes, instances
        self.labels = np.zeros(len(images), dtype=np.int64)
        with ThreadPoolExecutor() as pool:
            scans = list(pool.map(self._scan, range(len(images))))
        self.sizes = np.array([scan.size for scan in scans], dtype=np.int64).reshape(-1, 2)
        self.issues = [scan.issue for scan in scans if scan.issue is not None]
        self.present = np.array([scan.present for scan in scans]).reshape(-1, classes + 1)
        """(N, classes + 1) bool: the classes in each mask, then whether some pixels have no class."""

    def _scan(self, index: int) -> MaskScan:
        size = image_size(Path(self.paths[index]))
        present = np.zeros(self.classes + 1, dtype=bool)
        try:
            mask = read_mask(self.masks[index], self.classes, instances=self.instances)
        except CorruptImage as error:
            return MaskScan(size, present, AnnotationIssue(error.path, error.reason))
        numbers = np.unique(mask)
        present[np.where(numbers == IGNORE_INDEX, self.classes, numbers)] = True
        height, width = mask.shape
        if size not in ((0, 0), (width, height)):
            reason = f"{width}x{height}, but its image {self.paths[index]} is {size[0]}x{size[1]}"
            return MaskScan(size, present, AnnotationIssue(self.masks[index], reason))
        return MaskScan(size, present)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        image = decode_image(self.paths[index])
        return image, {"mask": read_mask(self.masks[index], self.classes, instances=self.instances)}

    def stored(self, index: int) -> Stored:
        """Read the image's bytes."""
        return read_stored(self.paths[index])

    def locate(self, index: int) -> str:
        """Return the image's path."""
        return self.paths[index]

    def info(self, index: int) -> ImageInfo:
        """Decode the image and describe its stored form."""
        return file_info(self.paths[index])

    def entry(self, index: int) -> Entry:
        """Return path below the root and size, both of the image and of its mask."""
        path, mask = self.paths[index], self.masks[index]
        target = f"{path_below(mask, self.root)} {file_size(mask)}{' instances' * self.instances}"
        return Entry(path_below(path, self.root), file_size(path), target)

    def counts(self, classes: int) -> list[int]:
        """Count the images that contain each class."""
        return self.present.sum(axis=0)[:classes].tolist()
