"""Reading and checking a JSON file in COCO's format."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senet.data.boxes import checked_size
from senet.errors import DataError, shown

__all__ = ["CocoFile", "category_numbers", "listed_images", "read_coco_file"]


@dataclass(frozen=True)
class CocoFile:
    """Contents of a JSON file in COCO's format.

    Attributes:
        path: The file.
        images: Entries with `id` and `file_name`. Each id is unique.
        annotations: Entries, unchecked.
        categories: Number to name, in the order of numbers. Each name is unique.
    """

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]


def read_coco_file(path: Path, *, annotated: bool = True) -> CocoFile:
    """Read a file of annotations, or an `image_info` file.

    Args:
        path: The file.
        annotated: Whether `annotations` is required.

    Raises:
        DataError: The file is unreadable or isn't in COCO's format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} isn't in COCO's format: it holds no JSON object")
    if not annotated:
        content.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{path} isn't in COCO's format: it has no list {key!r}")
    _check(path, "images", content["images"], "file_name", (int, str))
    _check(path, "categories", content["categories"], "name", (int,))
    categories = {entry["id"]: str(entry["name"]) for entry in sorted(content["categories"], key=lambda e: e["id"])}
    if len(set(categories.values())) != len(categories) or not categories:
        raise DataError(f"{path}: its categories must have distinct names")
    return CocoFile(path, content["images"], content["annotations"], categories)


def _check(path: Path, key: str, entries: list[dict[str, Any]], needed: str, kinds: tuple[type, ...]) -> None:
    seen = set()
    for entry in entries:
        if "id" not in entry or needed not in entry:
            raise DataError(f"{path}: an entry of {key!r} lacks 'id' or {needed!r}: {shown(entry, 200)}")
        number = entry["id"]
        if type(number) not in kinds:
            words = " or ".join({int: "a whole number", str: "a text"}[kind] for kind in kinds)
            raise DataError(f"{path}: the id {shown(number)} of an entry of {key!r} must be {words}")
        if number in seen:
            raise DataError(f"{path}: two entries of {key!r} have the id {shown(number)}")
        seen.add(number)


def listed_images(file: CocoFile, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Find `id` and `file_name` of each image by the end of its path. The longest match counts.

    Raises:
        DataError: An image isn't listed or has another size, or two images match the same entry.
    """
    by_last: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in file.images:
        if isinstance(image["file_name"], str):
            by_last[image["file_name"].rpartition("/")[2]].append(image)
    found: list[dict[str, Any]] = []
    taken: dict[int | str, str] = {}
    for path in paths:
        whole = Path(os.path.abspath(path)).as_posix()
        fitting = [image for image in by_last[Path(path).name] if f"/{whole}".endswith(f"/{image['file_name']}")]
        if not fitting:
            raise DataError(f"{file.path} lists no image {path}")
        image = max(fitting, key=lambda image: len(image["file_name"]))
        if image["id"] in taken:
            raise DataError(f"{taken[image['id']]} and {path} are both image {shown(image['id'])} of {file.path}")
        taken[image["id"]] = path
        _, issues = checked_size(Path(path), (image.get("width"), image.get("height")), path)
        if issues:
            raise DataError(f"{path} isn't image {shown(image['id'])} of {file.path}: {issues[0].reason}")
        found.append({"id": image["id"], "file_name": image["file_name"]})
    return found


def category_numbers(file: CocoFile, classes: Sequence[str]) -> tuple[int, ...]:
    """Return the category number of each class.

    Raises:
        DataError: A class is not among the categories.
    """
    numbers = {name: number for number, name in file.categories.items()}
    missing = [name for name in classes if name not in numbers]
    if missing:
        raise DataError(f"{file.path} has no category {missing[0]!r}, a class of the network")
    return tuple(numbers[name] for name in classes)
