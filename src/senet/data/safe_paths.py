"""Safe paths: files named by an annotation must lie below their folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

__all__ = ["OutsideError", "file_within"]


class OutsideError(ValueError):
    """A name that leads out of its folder, or is no name of a file."""


def file_within(folders: Sequence[Path], name: object) -> Path:
    r"""Return the file below the first folder that has it, or its path in the first folder.

    The folders themselves may be links, since the user chose them. Files below them may not lead out.

    Args:
        folders: Candidates, at least one.
        name: Name in the annotation, such as `day1/0001.jpg`.

    Raises:
        OutsideError: Such as `/etc/passwd`, `../x.jpg`, `C:x.jpg`, `a\\b.jpg`, or a link out of the folder.
    """
    relative = _checked(name)
    for folder in folders:
        path = folder / relative
        if path.is_file():
            if not path.resolve().is_relative_to(folder.resolve()):
                raise OutsideError(
                    f"{relative} is a link that leads out of {folder}; copy the file, or link the folder"
                )
            return path
    return folders[0] / relative


def _checked(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise OutsideError("it must be the name of a file")
    windows = PureWindowsPath(name)
    if "\\" in name:
        raise OutsideError("it has a backslash; write / between folders")
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root:
        raise OutsideError("it must be relative to the folder of the images")
    if ".." in windows.parts:
        raise OutsideError("it leads out of the folder of the images")
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        raise OutsideError("it has characters that no file system takes") from None
    if b"\0" in encoded:
        raise OutsideError("it has a zero byte")
    return name
