"""Boxes in COCO's format: one JSON file for each split."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from senet.data.boxes import BoxSample, BoxSource, checked_boxes, checked_size
from senet.data.coco_file import CocoFile, read_coco_file
from senet.data.dense import AnnotationIssue
from senet.data.request import Request
from senet.data.safe_paths import OutsideError, file_within
from senet.data.sources import Data
from senet.errors import DataError, shown

__all__ = ["open_coco", "read_coco"]

LAYOUT = (
    "expected annotations/instances_train2017.json and train2017/, and the same with val2017; or train.json, val.json "
    "and images/"
)

SPLITS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def open_coco(request: Request) -> Data:
    """Read `coco:PATH`: COCO's own folders, or a JSON file for each split beside (or above) its images.

    Classes are the categories of the training split, in the order of their numbers. The categories of other splits are
    matched by name. A `file_name` may not lead out of its folder. Annotations with `iscrowd` are neither trained on nor
    counted as missed, as in COCO's own evaluation.

    Raises:
        DataError: The folder or one of its JSON files is missing or unreadable.
    """
    root = request.existing_folder(LAYOUT)
    request.refuse_split("its JSON files define the validation images")
    if request.classes:
        raise DataError(f"--class-names has no effect on {request.name}, whose JSON names its categories")
    files = _files(root)
    train = read_coco_file(files["train"])
    classes = tuple(train.categories.values())
    sources = {
        split: read_coco(train if split == "train" else read_coco_file(file), _images(root, file), classes)
        for split, file in files.items()
    }
    return Data(
        request.name,
        classes,
        sources["train"],
        sources["val"],
        sources.get("test"),
        task="detection",
        category_ids=tuple(train.categories),
    )


def _files(root: Path) -> dict[str, Path]:
    folder = root / "annotations" if (root / "annotations").is_dir() else root
    wanted = [
        path for path in sorted(folder.glob("*.json")) if not path.stem.startswith(("captions", "person", "image"))
    ]
    found = {
        split: next((path for path in wanted if any(name in path.stem.lower() for name in names)), None)
        for split, names in SPLITS.items()
    }
    by_split = {split: path for split, path in found.items() if path is not None}
    if "val" not in by_split and "test" in by_split:
        by_split["val"] = by_split.pop("test")
    for split in ("train", "val"):
        if split not in by_split:
            raise DataError(f"{folder} has no JSON file with {split!r} in its name; {LAYOUT}")
    return by_split


def _images(root: Path, file: Path) -> list[Path]:
    """List the folders that may hold a split's images, the likeliest first."""
    split = file.stem.rpartition("_")[2]
    return [folder for folder in (root / split, root / "images" / split, root / "images", root) if folder.is_dir()]


def read_coco(content: CocoFile, folders: list[Path], classes: tuple[str, ...]) -> BoxSource:
    """Read one split.

    Args:
        content: Its JSON file. Categories are matched to the classes by name.
        folders: Folders that may hold its images.
        classes: Names of the classes.
    """
    labels = {number: classes.index(name) for number, name in content.categories.items() if name in classes}
    by_image: dict[int | str, list[dict[str, Any]]] = {entry["id"]: [] for entry in content.images}
    issues = []
    for entry in content.annotations:
        wrong = _wrong(entry, by_image, labels)
        if wrong:
            issues.append(AnnotationIssue(str(content.path), f"annotation {shown(entry.get('id', '?'))}: {wrong}"))
        else:
            by_image[entry["image_id"]].append(entry)
    rows = []
    for image in content.images:
        try:
            path = file_within(folders, image["file_name"])
        except OutsideError as error:
            name = shown(image["file_name"])
            issues.append(AnnotationIssue(str(content.path), f"image {shown(image['id'])}: file_name {name}: {error}"))
            continue
        row, more = _row(content.path, image, path, by_image[image["id"]], labels, classes)
        rows.append(row)
        issues += more
    return BoxSource(rows, issues, root=folders[-1])


def _row(
    file: Path,
    image: dict[str, Any],
    path: Path,
    entries: list[dict[str, Any]],
    labels: dict[int, int],
    classes: tuple[str, ...],
) -> tuple[BoxSample, list[AnnotationIssue]]:
    """Return one image's boxes and their issues."""
    where = f"{file}, {image['file_name']}"
    corners = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    numbers = np.array([labels[entry["category_id"]] for entry in entries], dtype=np.int64)
    size, wrong = checked_size(path, (image.get("width"), image.get("height")), where)
    boxes, usable, more = checked_boxes(corners, size, where, [classes[number] for number in numbers])
    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in entries], dtype=bool)
    row = BoxSample(path, boxes[usable], numbers[usable], crowd[usable], np.zeros_like(crowd[usable]), size)
    return row, wrong or more  # boxes of another image are all wrong, so one issue is enough


def _wrong(entry: dict[str, Any], images: Collection[object], labels: Collection[object]) -> str:
    image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if type(image) not in (int, str) or image not in images:
        return f"there is no image {shown(image)}"
    if type(category) is not int or category not in labels:
        return f"there is no category {shown(category)} among the categories of the training split"
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) and _plain(v) for v in box):
        return f"bbox must be four numbers, not {shown(box)}"
    return ""


def _plain(value: float) -> bool:
    return value != value or abs(value) < 1e9  # NaN is reported as a box without area
