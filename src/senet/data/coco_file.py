"""One JSON file in COCO's form, read and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senet.errors import DataError, shown

__all__ = ["CocoFile", "read_coco_file"]


@dataclass(frozen=True)
class CocoFile:
    """What a file says.

    Attributes:
        path: The file.
        images: Entries with `id` and `file_name`; no id twice.
        annotations: Entries, unchecked.
        categories: Number to name, by number; no name twice.
    """

    path: Path
    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: dict[int, str]


def read_coco_file(path: Path, *, annotated: bool = True) -> CocoFile:
    """Read a file of annotations, or of `image_info`.

    Args:
        path: The file.
        annotated: Whether `annotations` must be there.

    Raises:
        DataError: It can't be read, or isn't in COCO's form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} isn't in COCO's form: it holds no object")
    if not annotated:
        content.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list) or not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{path} isn't in COCO's form: it has no list {key!r}")
    _check(path, "images", content["images"], "file_name", (int, str))
    _check(path, "categories", content["categories"], "name", (int,))
    categories = {entry["id"]: str(entry["name"]) for entry in sorted(content["categories"], key=lambda e: e["id"])}
    if len(set(categories.values())) != len(categories) or not categories:
        raise DataError(f"{path}: its categories must have names, each another")
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
