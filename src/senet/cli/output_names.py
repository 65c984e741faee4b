"""Unique names for the output files of images from any folders. No image is overwritten."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from senet.errors import SenetError

__all__ = ["output_names", "refuse_images", "relative_paths"]

LONGEST = 180
"""Bytes of a name. Most file systems take 255, including endings and suffixes of temporary files."""


def relative_paths(arguments: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return each image's path below the common folder of all arguments, with `/`.

    Args:
        arguments: Files and folders, as the user named them.
        paths: The images among and below them.
    """
    folders = [os.path.abspath(name if os.path.isdir(name) else os.path.dirname(name)) for name in arguments]
    base = os.path.commonpath(folders)
    return [Path(os.path.relpath(os.path.abspath(path), base)).as_posix() for path in paths]


def output_names(arguments: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return a unique name for the predictions of each image.

    The name is the image's path below the given folder, or the file's own name, without its ending. Images of the same
    name get their path below the common folder, then their ending, then a number. Upper and lower case count as the
    same, as on some file systems. A long name is cut and gets a hash.

    Args:
        arguments: Files and folders, as the user named them.
        paths: The images among and below them.
    """
    shared = relative_paths(arguments, paths)
    ways = [[_stem(name) for name in _below(arguments, paths)], [_stem(name) for name in shared], shared]
    counts = [Counter(name.casefold() for name in way) for way in ways]
    used: set[str] = set()
    names = []
    for way in zip(*ways, strict=True):
        alone = (name for name, count in zip(way, counts, strict=True) if count[name.casefold()] == 1)
        wanted = name = _short(next(alone, way[-1]))
        number = 1
        while name.casefold() in used:
            number += 1
            name = f"{wanted}-{number}"
        used.add(name.casefold())
        names.append(name)
    return names


def _below(arguments: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return each image's path below the given folder, or the name of an image given directly."""
    named = set(arguments)
    folders = sorted(
        (f"{Path(os.path.abspath(name)).as_posix()}/" for name in arguments if os.path.isdir(name)), key=len
    )
    found = []
    for path in paths:
        whole = Path(os.path.abspath(path)).as_posix()
        folder = "" if path in named else next((f for f in reversed(folders) if whole.startswith(f)), "")
        found.append(whole.removeprefix(folder) if folder else whole.rpartition("/")[2])
    return found


def _stem(image: str) -> str:
    return image[: len(image) - len(PurePosixPath(image).suffix)]


def _short(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    encoded = os.fsencode(last)
    if len(encoded) <= LONGEST:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    return f"{folder}{slash}{os.fsdecode(encoded[: LONGEST - 13])}~{digest}"


def refuse_images(outputs: Sequence[Path], images: Sequence[str]) -> None:
    """Raise a `SenetError` if an output file would overwrite one of the images."""
    read = {os.path.realpath(image) for image in images}
    for output in outputs:
        if os.path.realpath(output) in read:
            raise SenetError(f"--out: {output} is one of the images, which would be lost; choose another folder")
