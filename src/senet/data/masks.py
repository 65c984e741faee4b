"""Pictures with masks: in each pixel of a mask stands the number of its class."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from senet.data.boxes import picture_size
from senet.data.dense import Target, Trouble
from senet.data.images import BrokenImage, Facts, Stored, file_facts, load_image, read_stored
from senet.data.listing import Entry, file_size, path_below
from senet.data.parts import divide, find_names, listed_parts, pictures_in, read_lines
from senet.data.request import Request
from senet.data.sources import Data, PathList
from senet.errors import DataError

__all__ = ["VOID", "MaskSource", "open_masks", "read_mask"]

VOID = 255
"""What stands in a mask where nothing is said: neither learned nor counted."""

LAYOUT = "expected images/NAME.jpg and masks/NAME.png, and train.txt, val.txt, test.txt beside them"


def open_masks(request: Request) -> Data:
    """Read `masks:PATH`: pictures in `images`, masks with the same names in `masks`.

    A mask has one channel: class numbers from 0, and 255 where nothing is said (as in Pascal VOC); palettes count as
    numbers. With `instances`, any number above 0 is one object of the second class. All masks are read once.

    Raises:
        DataError: The folder isn't there, or nobody says what the classes are.
    """
    root = request.folder()
    if not request.place or not root.is_dir():
        raise DataError(f"{request.name}: {root if request.place else 'masks needs a path'}; {LAYOUT}")
    pictures, masks = pictures_in(root / "images"), pictures_in(root / "masks")
    classes = request.classes or _named_classes(root, instances=request.instances)
    parts, split = listed_parts([root]), None
    if parts:
        request.refuse_fraction("it has its own lists of pictures")
        find_names(parts, pictures, root / "images")
    else:
        parts, split = divide(list(pictures), request), request.split
    find_names(parts, masks, root / "masks")
    if len(classes) < 2 or (request.instances and len(classes) != 2):
        raise DataError(f"classes {', '.join(classes)}: name two, the background first (--instances takes no more)")
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
        request.name, classes, sources["train"], sources["val"], sources.get("test"), task="segmentation", split=split
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


def read_mask(path: str | Path, classes: int, *, instances: bool = False) -> np.ndarray:
    """(H, W) uint8 class numbers, 255 where nothing is said.

    Raises:
        BrokenImage: The file can't be read, has several channels, or numbers that are no classes.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                raise ValueError(f"a mask has one channel of class numbers; this is {image.mode}")
            found = np.asarray(image).astype(np.int64)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BrokenImage(path, " ".join(str(error).split()) or "not an image") from error
    if instances:
        return (found > 0).astype(np.uint8)
    wrong = np.unique(found[(found >= classes) & (found != VOID)])
    if len(wrong):
        more = "; --instances if these number single objects" if len(wrong) > 1 else ""
        raise BrokenImage(path, f"class number {wrong[0]}, but there are {classes} classes (0..{classes - 1}){more}")
    return found.astype(np.uint8)


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
        self.sizes = np.array([size for size, _, _ in looked], dtype=np.int64).reshape(-1, 2)
        self.troubles = [trouble for _, _, trouble in looked if trouble is not None]
        self._pictures_of = np.sum([np.zeros(classes, dtype=np.int64), *(present for _, present, _ in looked)], axis=0)

    def _look(self, index: int) -> tuple[tuple[int, int], np.ndarray, Trouble | None]:
        size = picture_size(Path(self.paths[index]))
        present = np.zeros(self.classes, dtype=np.int64)
        try:
            mask = read_mask(self.masks[index], self.classes, instances=self.instances)
        except BrokenImage as error:
            return size, present, Trouble(error.path, error.reason)
        numbers = np.unique(mask)
        present[numbers[numbers < self.classes]] = 1
        height, width = mask.shape
        if size not in ((0, 0), (width, height)):
            reason = f"{width}x{height}, but its picture {self.paths[index]} is {size[0]}x{size[1]}"
            return size, present, Trouble(self.masks[index], reason)
        return size, present, None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        image = load_image(self.paths[index])
        return image, {"mask": read_mask(self.masks[index], self.classes, instances=self.instances)}

    def stored(self, index: int) -> Stored:
        """The picture's bytes."""
        return read_stored(self.paths[index])

    def locate(self, index: int) -> str:
        """The picture's path."""
        return self.paths[index]

    def facts(self, index: int) -> Facts:
        """The picture's stored form."""
        return file_facts(self.paths[index])

    def entry(self, index: int) -> Entry:
        """Path below the root and size, both of the picture and of its mask."""
        path, mask = self.paths[index], self.masks[index]
        target = f"{path_below(mask, self.root)} {file_size(mask)}{' instances' * self.instances}"
        return Entry(path_below(path, self.root), file_size(path), target)

    def counts(self, classes: int) -> list[int]:
        """Pictures that have something of each class."""
        return self._pictures_of[:classes].tolist()
