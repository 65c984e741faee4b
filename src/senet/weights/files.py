"""Atomic writing and hashing of files."""

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
    """Write a temporary file beside `path`, then rename it to `path` in one step.

    A reader sees the old file or the new one, never a partial one. A failure keeps the old file and removes the
    temporary one. File and folder are flushed to the disk. The file has the permissions of any new file.

    Args:
        path: The file to make or replace.
        write: Writes the content to a given path.
        named: Maps the written file to the final path in the same folder, where the name depends on the content.

    Returns:
        The final path.
    """
    try:
        temporary, mode = _new_file(path.parent, f".{path.name}.", f".tmp{path.suffix}")
    except OSError as error:
        error.filename = os.fspath(path)  # the user's path, not the temporary one
        raise
    try:
        write(temporary)
        with temporary.open("r+b") as file:  # Windows flushes writable files only
            os.fsync(file.fileno())
        temporary.chmod(mode)  # some writers replace the temporary file by their own
        path = path if named is None else named(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
        return path
    finally:
        temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the system can."""
    with contextlib.suppress(OSError):  # Windows can't open folders, some network file systems can't flush them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def new_file_mode(folder: Path) -> int:
    """Return the permissions of a new file in this folder.

    A file is made to find out, since reading the umask changes it for all threads of the process.
    """
    probe, mode = _new_file(folder, ".", ".tmp")
    probe.unlink()
    return mode


def _new_file(folder: Path, start: str, end: str) -> tuple[Path, int]:
    """Make an empty file with an unused name, and return its path and permissions."""
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
    """Return the hexadecimal SHA-256 digest of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
