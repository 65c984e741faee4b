"""Boxes in Pascal VOC's format: one XML file for each image."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from senet.data.boxes import BoxSample, BoxSource, checked_boxes, checked_size
from senet.data.dense import AnnotationIssue
from senet.data.listed_splits import divide, find_names, images_in, listed_splits, read_lines, unread_in
from senet.data.request import Request
from senet.data.sources import Data
from senet.errors import DataError

__all__ = ["open_voc"]

LAYOUT = (
    "expected Annotations/NAME.xml and JPEGImages/NAME.jpg, and train.txt, val.txt, test.txt there or in ImageSets/Main"
)

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """One XML file: (name, corners in pixels counted from 1, difficult) of each object, then width and height."""

    path: Path
    objects: list[tuple[str, list[float], bool]]
    size: tuple[float, float] = (0, 0)


def open_voc(request: Request) -> Data:
    """Read `voc:PATH`: Pascal VOC's own folders, or labelImg's.

    The classes are listed in `classes.txt` or `labels.txt`. Otherwise they are the names in the training annotations,
    in alphabetical order. Difficult objects are neither trained on nor counted, as in VOC's own evaluation.

    Raises:
        DataError: The folder or a listed file is missing.
    """
    root = request.existing_folder(LAYOUT)
    images, xmls = images_in(root / "JPEGImages"), root / "Annotations"
    if not xmls.is_dir():
        raise DataError(f"{xmls} is missing; {LAYOUT}")
    splits, spec = listed_splits([root, root / "ImageSets" / "Main"]), None
    if splits:
        request.refuse_split("it has its own lists of images")
    else:
        splits, spec = divide([name for name in images if (xmls / f"{name}.xml").is_file()], request)
    find_names(splits, images, root / "JPEGImages")
    read = {split: [_read(xmls / f"{name}.xml") for name in names] for split, names in splits.items()}
    used = read["train"] if request.training else [one for annotations in read.values() for one in annotations]
    classes = request.classes or _named_classes(root) or _seen_classes(used)
    if not classes:
        raise DataError(f"{root}: no object is named in the training annotations")
    sources = {
        split: _source([images[name] for name in names], read[split], classes, root) for split, names in splits.items()
    }
    return Data(
        request.name, classes, sources["train"], sources["val"], sources.get("test"), task="detection", split_spec=spec,
        left_out=unread_in(root / "JPEGImages"),
    )  # fmt: skip


def _named_classes(root: Path) -> tuple[str, ...]:
    found = next((root / name for name in ("classes.txt", "labels.txt") if (root / name).is_file()), None)
    return tuple(read_lines(found)) if found else ()


def _seen_classes(read: Sequence[Annotation | AnnotationIssue]) -> tuple[str, ...]:
    return tuple(sorted({name for one in read if isinstance(one, Annotation) for name, _, _ in one.objects}))


def _read(path: Path) -> Annotation | AnnotationIssue:
    try:
        tree = ET.parse(path).getroot()
        found = []
        for entry in tree.iter("object"):
            name, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
            if not name or box is None:
                return AnnotationIssue(str(path), "an object without name or bndbox")
            corners = [float(box.findtext(corner) or "nan") for corner in CORNERS]
            found.append((name, corners, (entry.findtext("difficult") or "0").strip() == "1"))
        return Annotation(path, found, (_pixels(tree, "size/width"), _pixels(tree, "size/height")))
    except FileNotFoundError:
        return AnnotationIssue(str(path), "no such file; an image without objects has an XML without <object>")
    except (ET.ParseError, ValueError, OSError) as error:
        return AnnotationIssue(str(path), f"unreadable as VOC's XML ({error})")


def _pixels(tree: ET.Element, place: str) -> float:
    """Read a side of the image. 0 if it is missing, as in files of some tools."""
    return float((tree.findtext(place) or "0").strip() or 0)


def _source(
    images: Sequence[Path], read: Sequence[Annotation | AnnotationIssue], classes: Sequence[str], root: Path
) -> BoxSource:
    numbers = {name: number for number, name in enumerate(classes)}
    rows, issues = [], []
    for image, one in zip(images, read, strict=True):
        annotation = one if isinstance(one, Annotation) else Annotation(root, [])
        if isinstance(one, AnnotationIssue):
            issues.append(one)
        known = [entry for entry in annotation.objects if entry[0] in numbers]
        for strange in sorted({name for name, _, _ in annotation.objects} - numbers.keys()):
            issues.append(
                AnnotationIssue(str(annotation.path), f"class {strange!r} is none of {', '.join(classes)}")
            )  # fmt: skip
        size, elsewhere = checked_size(image, annotation.size, str(annotation.path))
        # VOC counts pixels from 1, and the last one is inside.
        corners = np.array([corners for _, corners, _ in known], dtype=np.float64).reshape(-1, 4)
        names = [name for name, _, _ in known]
        _, usable, wrong = checked_boxes(corners, size, str(annotation.path), names)
        boxes, _, _ = checked_boxes(corners - [1, 1, 0, 0], size, "", names)
        issues += elsewhere or wrong  # boxes of another image are all wrong, so one issue is enough
        labels = np.array([numbers[name] for name in names], dtype=np.int64)
        difficult = np.array([flag for _, _, flag in known], dtype=bool)
        crowd = np.zeros_like(difficult[usable])
        rows.append(BoxSample(image, boxes[usable], labels[usable], crowd, difficult[usable], size))
    return BoxSource(rows, issues, root=root / "JPEGImages")
