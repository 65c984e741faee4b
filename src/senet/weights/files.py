"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

__all__ = ["new_file_mode", "sha256", "sync_folder", "write_atomically"]


def write_atomically(
    path: Path, write: Callable[[Path], object], *, named: Callable[[Path], Path] | None = None
) -> Path:
    """Let `write` make a temporary file beside `path`, then put it there in one step.

    A reader sees the old file or the new one, never a piece. A failure leaves the old one and no rubbish. File and
    folder are flushed to the disk, so that a power cut can't undo the step. The file has the permissions of any new
    file.

    Args:
        path: The file to make or replace.
        write: Writes the content to the path that it is given.
        named: From the written file to the final path in the same folder, where the name depends on the content.

    Returns:
        The final path.
    """
    try:
        temporary, mode = _new_file(path.parent, f".{path.name}.", f".tmp{path.suffix}")
    except OSError as error:
        error.filename = os.fspath(path)  # the name that the user knows
        raise
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # some writers put a file of their own in its place
        path = path if named is None else named(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
        return path
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folders, some network file systems flush none
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def new_file_mode(folder: Path) -> int:
    """The permissions that a new file gets in this folder.

    Found by making one: to ask for the umask is to change it for all threads of the process.
    """
    probe, mode = _new_file(folder, ".", ".tmp")
    probe.unlink()
    return mode


def _new_file(folder: Path, start: str, end: str) -> tuple[Path, int]:
    """An empty file with a name that nobody has, and its permissions."""
    while True:
        path = folder / f"{start}{secrets.token_hex(4)}{end}"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        try:
            return path, stat.S_IMODE(os.fstat(handle).st_mode)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
