"""Boxes in COCO's form: one JSON file a part."""

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

PARTS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def open_coco(request: Request) -> Data:
    """Read `coco:PATH`: COCO's own folders, or a JSON file a part beside (or above) its pictures.

    Classes are the categories of the training part, by their numbers; other parts are matched to them by name. A
    `file_name` may not lead out of its folder. Annotations with `iscrowd` are neither learned nor counted as misses, as
    in COCO's own evaluation.

    Raises:
        DataError: The folder or one of its JSON files isn't there or can't be read.
    """
    root = request.existing_folder(LAYOUT)
    request.refuse_split("its JSON files say what is validated on")
    if request.classes:
        raise DataError(f"--class-names has no effect on {request.name}, whose JSON names its categories")
    files = _files(root)
    train = read_coco_file(files["train"])
    classes = tuple(train.categories.values())
    sources = {
        part: read_coco(train if part == "train" else read_coco_file(file), _pictures(root, file), classes)
        for part, file in files.items()
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
        part: next((path for path in wanted if any(name in path.stem.lower() for name in names)), None)
        for part, names in PARTS.items()
    }
    by_part = {part: path for part, path in found.items() if path is not None}
    if "val" not in by_part and "test" in by_part:
        by_part["val"] = by_part.pop("test")
    for part in ("train", "val"):
        if part not in by_part:
            raise DataError(f"{folder} has no JSON file with {part!r} in its name; {LAYOUT}")
    return by_part


def _pictures(root: Path, file: Path) -> list[Path]:
    """Where a part's pictures may be, the likeliest first."""
    part = file.stem.rpartition("_")[2]
    return [folder for folder in (root / part, root / "images" / part, root / "images", root) if folder.is_dir()]


def read_coco(content: CocoFile, folders: list[Path], classes: tuple[str, ...]) -> BoxSource:
    """One part.

    Args:
        content: Of its JSON file, whose categories are matched to the classes by name.
        folders: Where its pictures may be.
        classes: Names of the classes.
    """
    labels = {number: classes.index(name) for number, name in content.categories.items() if name in classes}
    by_picture: dict[int | str, list[dict[str, Any]]] = {entry["id"]: [] for entry in content.images}
    issues = []
    for entry in content.annotations:
        wrong = _wrong(entry, by_picture, labels)
        if wrong:
            issues.append(AnnotationIssue(str(content.path), f"annotation {shown(entry.get('id', '?'))}: {wrong}"))
        else:
            by_picture[entry["image_id"]].append(entry)
    rows = []
    for picture in content.images:
        try:
            path = file_within(folders, picture["file_name"])
        except OutsideError as error:
            name = shown(picture["file_name"])
            issues.append(
                AnnotationIssue(str(content.path), f"image {shown(picture['id'])}: file_name {name}: {error}")
            )
            continue
        row, more = _row(content.path, picture, path, by_picture[picture["id"]], labels, classes)
        rows.append(row)
        issues += more
    return BoxSource(rows, issues, root=folders[-1])


def _row(
    file: Path,
    picture: dict[str, Any],
    path: Path,
    entries: list[dict[str, Any]],
    labels: dict[int, int],
    classes: tuple[str, ...],
) -> tuple[BoxSample, list[AnnotationIssue]]:
    """One picture's boxes, and what is wrong with them."""
    where = f"{file}, {picture['file_name']}"
    corners = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    numbers = np.array([labels[entry["category_id"]] for entry in entries], dtype=np.int64)
    size, wrong = checked_size(path, (picture.get("width"), picture.get("height")), where)
    boxes, usable, more = checked_boxes(corners, size, where, [classes[number] for number in numbers])
    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in entries], dtype=bool)
    row = BoxSample(path, boxes[usable], numbers[usable], crowd[usable], np.zeros_like(crowd[usable]), size)
    return row, wrong or more  # boxes of another picture are all wrong: once is enough


def _wrong(entry: dict[str, Any], pictures: Collection[object], labels: Collection[object]) -> str:
    picture, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if type(picture) not in (int, str) or picture not in pictures:
        return f"there is no image {shown(picture)}"
    if type(category) is not int or category not in labels:
        return f"there is no category {shown(category)} among those that are trained on"
    if not isinstance(box, list) or len(box) != 4 or not all(type(v) in (int, float) and _plain(v) for v in box):
        return f"bbox must be four numbers, not {shown(box)}"
    return ""


def _plain(value: float) -> bool:
    return value != value or abs(value) < 1e9  # NaN has no area, and is told as such
