"""Divide images into splits, by lists of names or by a hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from senet.data.division import divide_requested, path_groups
from senet.data.formats import ImageFiles, list_images, readable_suffixes
from senet.data.request import Request
from senet.data.split import SplitSpec
from senet.errors import DataError

__all__ = ["divide", "find_names", "images_in", "listed_splits", "read_lines", "unread_in"]

NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_lines(path: Path) -> list[str]:
    """Read a text file's lines without surrounding blanks. Empty lines are skipped.

    Raises:
        DataError: The file is no readable text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def listed_splits(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Read the names in `train.txt`, `val.txt` and `test.txt` of the first of these folders that has a `train.txt`.

    Without `val.txt` the test list is validated on. A line's first word counts, without a file suffix.
    """
    for folder in folders:
        files = {
            split: next((folder / f"{name}.txt" for name in names if (folder / f"{name}.txt").is_file()), None)
            for split, names in NAMES.items()
        }
        if files["train"] is None:
            continue
        if files["val"] is None:
            files = {"train": files["train"], "val": files["test"]}
        if files["val"] is None:
            raise DataError(f"{folder} has train.txt, but neither val.txt nor test.txt to validate on")
        splits = {split: [_stem(line.split()[0]) for line in read_lines(f)] for split, f in files.items() if f}
        for split, names in splits.items():
            if not names:
                raise DataError(f"{files[split]} names no image")
        return splits
    return {}


def _stem(name: str) -> str:
    return name[: -len(Path(name).suffix)] if Path(name).suffix.lower() in readable_suffixes() else name


def divide(names: Sequence[str], request: Request) -> tuple[dict[str, list[str]], SplitSpec]:
    """Choose validation images by a hash of seed and name (`hash_split`), or by folds and groups (`divide_images`).

    Args:
        names: Paths below the folder of images, without suffixes.
        request: Has fraction and seed.

    Raises:
        DataError: The fraction is out of range, or there are so few images that a split would be empty.
    """
    groups, group = path_groups(names, request)
    train, val, spec = divide_requested(names, request, groups=groups, group=group)
    request.refuse_empty(train=len(train), val=len(val))
    return {"train": [names[i] for i in train], "val": [names[i] for i in val]}, spec


def images_in(folder: Path) -> dict[str, Path]:
    """Find the image files of a folder, at any depth: path below the folder without suffix, to the file.

    Raises:
        DataError: The folder is missing, or two of its images differ in their suffix alone.
    """
    return _by_name(folder, _files_in(folder).images)


def unread_in(folder: Path) -> tuple[str, ...]:
    """List all other files there, see `list_images`."""
    return tuple(_files_in(folder).left_out)


def _files_in(folder: Path) -> ImageFiles:
    if not folder.is_dir():
        raise DataError(f"{folder} is missing or is no folder; it should hold the images")
    return list_images(folder)


def _by_name(folder: Path, files: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in map(Path, files):
        name = _stem(path.relative_to(folder).as_posix())
        if name in found:
            raise DataError(f"{found[name]} and {path} have the same name; keep one of them")
        found[name] = path
    return found


def find_names(splits: dict[str, list[str]], there: dict[str, Path], where: Path) -> None:
    """Raise a `DataError` for listed names without a file."""
    missing = [name for names in splits.values() for name in names if name not in there]
    if missing:
        raise DataError(f"{where} lacks {len(missing)} of the listed images, the first: {missing[0]}")
