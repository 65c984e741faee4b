"""Folders of images: one sub-folder a class, with or without `train` and `val` above them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import find_classes

from senet.data.division import divide_requested, path_groups
from senet.data.formats import list_images, loose_images, readable_suffixes
from senet.data.listing import path_below
from senet.data.request import Request
from senet.data.sources import Data, FileSource, Subset, missing_classes
from senet.data.split import SplitSpec
from senet.errors import DataError

__all__ = ["find_images", "open_folder"]

VALIDATION_NAMES = ("val", "valid", "validation", "test")
"""Names of validation folders, in order of preference. Case is ignored."""

LAYOUT = "expected one sub-folder of images a class (FOLDER/CLASS/x.jpg)"


class Tree(NamedTuple):
    """The images below one folder of class folders."""

    root: Path
    classes: tuple[str, ...]
    source: FileSource
    left_out: list[str]


def find_images(folder: str | os.PathLike[str]) -> list[str]:
    """Find all image files below a folder, at any depth, sorted, see `list_images`.

    Raises:
        DataError: The folder is missing, is a file or is unreadable.

    Example:
        >>> import tempfile
        >>> from senet.data import MemorySource, find_images, sample_images, write_images
        >>> folder = tempfile.mkdtemp()
        >>> source = MemorySource([(image,) for image in sample_images(2)], [0, 1], name="photos")
        >>> paths = write_images(source, folder, classes=["temple", "flower"])
        >>> [path.removeprefix(folder) for path in find_images(folder)]
        ['/flower/00001.png', '/temple/00000.png']
    """
    return sorted(list_images(_existing_folder(Path(folder).expanduser())).images)


def open_folder(request: Request) -> Data:
    """Read `folder:PATH`, by its own train and validation folders or by `hash_split`.

    Beside `train`, the first of `val`, `valid`, `validation` and `test` holds the validation images. If `test` is
    another folder, it is the test set. Both may lack classes. A folder whose only sub-folder is `train` is read like
    `train` itself.

    Raises:
        DataError: The folder or one of its classes can't be used. The message names it and a remedy.
    """
    if not request.path:
        raise DataError("folder needs a path: folder:PATH")
    root = _existing_folder(request.folder())
    splits = _splits(root)
    if "val" not in splits:
        tree = _tree(splits.get("train", root), request.training)
        return replace(_divide(tree, request), left_out=_left_out(root, tree))
    request.refuse_split(f"it has its own {splits['val'].name} folder")
    train = _tree(splits.pop("train"), request.training)
    others = {split: _of_classes(train, path) for split, path in splits.items()}
    left_out = _left_out(root, train, *others.values())
    test = others["test"].source if "test" in others else None
    return Data(
        request.name, train.classes, train.source, others["val"].source, test, left_out=left_out
    )  # fmt: skip


def _existing_folder(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path} doesn't exist; {LAYOUT}")
    if not path.is_dir():
        raise DataError(f"{path} is a file, not a folder; {LAYOUT}")
    return path.absolute()


def _subfolders(root: Path) -> list[str]:
    try:
        return [name for name in find_classes(root)[0] if not name.startswith(".")]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{root} can't be read: {error.strerror}") from error


def _class_folders(root: Path) -> dict[str, str]:
    """Map each class to the name of its folder, in the order of classes.

    Names and order are the same on every system: macOS writes names in another normal form of Unicode.

    Raises:
        DataError: Two folders are one class.
    """
    found: dict[str, str] = {}
    for folder in _subfolders(root):
        name = unicodedata.normalize("NFC", folder)
        if name in found:
            raise DataError(
                f"{root} has two folders {name!r}, written in two normal forms of Unicode (as by macOS and by Linux); "
                "put their images into one"
            )
        found[name] = folder
    return dict(sorted(found.items()))


def _splits(root: Path) -> dict[str, Path]:
    """Return the folders for training, validation and test, as far as the tree is divided."""
    by_name = {name.lower(): root / name for name in reversed(_subfolders(root))}
    if "train" not in by_name:
        return {}
    val = next((by_name[name] for name in VALIDATION_NAMES if name in by_name), None)
    if val is None:
        return {"train": by_name["train"]} if len(by_name) == 1 else {}
    splits = {"train": by_name["train"], "val": val}
    return splits | ({"test": by_name["test"]} if by_name.get("test", val) != val else {})


def _left_out(root: Path, *trees: Tree) -> tuple[str, ...]:
    """List the files of the trees that aren't read, and images beside their class folders."""
    loose = {path for folder in (root, *(tree.root for tree in trees)) for path in loose_images(folder)}
    return (*sorted(loose), *(path for tree in trees for path in tree.left_out))


def _tree(root: Path, training: bool) -> Tree:
    """Read a folder of class folders. Training needs at least two classes, each with images."""
    folders = _class_folders(root)
    classes = tuple(folders)
    if not classes:
        loose = len(loose_images(root))
        found = f"{loose} images but no class sub-folders" if loose else "no class sub-folders"
        raise DataError(f"{root} has {found}; {LAYOUT}")
    if len(classes) == 1 and training:
        raise DataError(f"{root} has one class only ({classes[0]!r}); a classifier needs at least two")
    tree = _listed(root, folders, classes)
    empty = missing_classes(tree.source, classes)
    if empty and (training or len(empty) == len(classes)):
        raise DataError(_about_empty(root, [folders[name] for name in empty]))
    return tree


def _listed(root: Path, folders: Mapping[str, str], classes: Sequence[str]) -> Tree:
    """List the images of class folders, labelled in the order of classes."""
    numbers = {name: label for label, name in enumerate(classes)}
    found = [(numbers[name], list_images(root / folder)) for name, folder in folders.items()]
    labels = [label for label, files in found for _ in files.images]
    source = FileSource((path for _, files in found for path in files.images), labels, root=root)
    return Tree(root, tuple(classes), source, [path for _, files in found for path in files.left_out])


def _about_empty(root: Path, names: Sequence[str]) -> str:
    if not os.access(root / names[0], os.R_OK | os.X_OK):
        return f"{root / names[0]} can't be read: permission denied"
    which = f"class {names[0]!r}" if len(names) == 1 else f"{len(names)} classes ({_some(names)})"
    return f"{root}: {which} without images; add some ({', '.join(readable_suffixes())}) or remove the empty folder"


def _of_classes(train: Tree, root: Path) -> Tree:
    """Read validation or test images with the classes of the training images. Some classes may have none."""
    here = _class_folders(root)
    missing = [name for name in train.classes if name not in set(here)]
    extra = [name for name in here if name not in set(train.classes)]
    if extra:
        lists = (("missing", missing), ("extra", extra))
        differences = "; ".join(f"{what}: {_some(names)}" for what, names in lists if names)
        raise DataError(f"{root} must have the classes of {train.root}; {differences}")
    tree = _listed(root, here, train.classes)
    if not len(tree.source):
        raise DataError(_about_empty(root, [*here.values()]) if here else f"{root} has no class sub-folders; {LAYOUT}")
    return tree


def _divide(tree: Tree, request: Request) -> Data:
    source = tree.source
    paths = [path_below(path, tree.root) for path in source.paths]
    groups, group = path_groups(paths, request)
    train, val, spec = divide_requested(
        paths, request, source.labels, groups=groups, group=group, stratify=False
    )  # fmt: skip
    if request.training:
        _check_division(tree, train, spec)
    request.refuse_empty(train=len(train), val=len(val))
    return Data(request.name, tree.classes, Subset(source, train), Subset(source, val), split_spec=spec)


def _check_division(tree: Tree, train: np.ndarray, spec: SplitSpec) -> None:
    lonely = [name for name, count in zip(tree.classes, np.bincount(tree.source.labels), strict=True) if count < 2]
    if lonely:
        raise DataError(
            f"{tree.root}: too few images to keep some for validation: {_some(lonely)} (1 image each); "
            "add images, or make train and val folders yourself"
        )
    missed = missing_classes(Subset(tree.source, train), tree.classes)
    if missed and len(train):
        raise DataError(
            f"{tree.root}: no image is left to train on of {_some(missed)} ({spec.in_words}); add images, choose "
            "another --split-seed, or make train and val folders yourself"
        )


def _some(names: Collection[str] | Iterable[str], most: int = 5) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
