"""Boxes in COCO's form: one JSON file a part."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from senet.data.boxes import Boxed, BoxSource, checked_boxes, picture_size
from senet.data.dense import Trouble
from senet.data.request import Request
from senet.data.sources import Data
from senet.errors import DataError

__all__ = ["open_coco", "read_coco"]

LAYOUT = (
    "expected annotations/instances_train2017.json and train2017/, and the same with val2017; or train.json, val.json "
    "and images/"
)

PARTS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


def open_coco(request: Request) -> Data:
    """Read `coco:PATH`: COCO's own folders, or a JSON file a part beside (or above) its pictures.

    Classes are the categories of the training part, by their numbers. Annotations with `iscrowd` are neither learned
    nor counted as misses, as in COCO's own evaluation.

    Raises:
        DataError: The folder or one of its JSON files isn't there or can't be read.
    """
    root = request.folder()
    if not request.place or not root.is_dir():
        raise DataError(f"{request.name}: {root if request.place else 'coco needs a path'} is no folder; {LAYOUT}")
    request.refuse_fraction("its JSON files say what is validated on")
    if request.classes:
        raise DataError(f"--class-names has no effect on {request.name}, whose JSON names its categories")
    files = _files(root)
    train = _loaded(files["train"])
    categories = sorted(train["categories"], key=lambda entry: entry["id"])
    numbers = {entry["id"]: number for number, entry in enumerate(categories)}
    classes = tuple(str(entry["name"]) for entry in categories)
    if len(set(classes)) != len(classes) or not classes:
        raise DataError(f"{files['train']}: its categories must have names, each another")
    sources = {
        part: read_coco(train if part == "train" else _loaded(file), file, _pictures(root, file), numbers, classes)
        for part, file in files.items()
    }
    return Data(request.name, classes, sources["train"], sources["val"], sources.get("test"), task="detection")


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


def _loaded(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} isn't in COCO's form: it holds no object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{path} isn't in COCO's form: it has no list {key!r}")
    for key, needed in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        for entry in content[key]:
            if any(name not in entry for name in needed):
                raise DataError(f"{path}: an entry of {key!r} lacks {' or '.join(map(repr, needed))}: {entry}"[:300])
    return content


def read_coco(
    content: dict[str, Any], file: Path, folders: list[Path], numbers: dict[int, int], classes: tuple[str, ...]
) -> BoxSource:
    """One part.

    Args:
        content: Of the JSON file.
        file: The JSON file.
        folders: Where its pictures may be.
        numbers: Category to class number.
        classes: Names of the classes.
    """
    by_picture: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    troubles = []
    known = {entry["id"] for entry in content["images"]}
    for entry in content["annotations"]:
        wrong = _wrong(entry, known, numbers)
        if wrong:
            troubles.append(Trouble(str(file), f"annotation {entry.get('id', '?')}: {wrong}"))
        else:
            by_picture[entry["image_id"]].append(entry)
    rows = []
    for picture in content["images"]:
        path = _found(folders, str(picture["file_name"]))
        entries, size = by_picture[picture["id"]], picture_size(path)
        corners = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([numbers[entry["category_id"]] for entry in entries], dtype=np.int64)
        where = f"{file}, {picture['file_name']}"
        boxes, usable, more = checked_boxes(corners, size, where, [classes[label] for label in labels])
        troubles += more
        crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in entries], dtype=bool)
        rows.append(Boxed(path, boxes[usable], labels[usable], crowd[usable], size, picture["id"]))
    return BoxSource(rows, troubles, root=folders[-1])


def _wrong(entry: dict[str, Any], pictures: set[Any], numbers: dict[int, int]) -> str:
    if entry.get("image_id") not in pictures:
        return f"there is no image {entry.get('image_id')!r}"
    if entry.get("category_id") not in numbers:
        return f"there is no category {entry.get('category_id')!r} among those that are trained on"
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        return f"bbox must be four numbers, not {box!r}"
    return ""


def _found(folders: list[Path], name: str) -> Path:
    return next((folder / name for folder in folders if (folder / name).is_file()), folders[0] / name)
