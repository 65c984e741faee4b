"""Lock a run's folder, so that one process at a time trains into it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from senet.errors import SenetError

_WINDOWS = sys.platform == "win32"
_system: Any = importlib.import_module("msvcrt" if _WINDOWS else "fcntl")
"""The system's module for locks."""

FAR = 1 << 30
"""Position of the byte that Windows locks, behind the text, since nobody else may read a locked byte."""

__all__ = ["LOCK", "InUseError", "lock_folder"]

LOCK = ".lock"
"""File with the process that trains into the folder. The file stays, and its lock ends with the process."""

_ours: set[Path] = set()
"""Folders locked by this process. The system's lock works between processes only."""


class InUseError(SenetError):
    """Another process trains into the folder.

    Args:
        folder: The folder.
        holder: Description of the process.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder} is in use by {holder}; wait until it ends, or choose another --out")
        self.holder = holder


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder within this context. A missing folder is made.

    The system's record lock ends with the process, also after a crash. Data loading processes don't inherit it. It
    works on network file systems that support locks.

    Raises:
        InUseError: Another process has the lock. The message names it.
        SenetError: The folder can't be written to.
    """
    path = (folder / LOCK).resolve()
    if path in _ours:  # checked before opening, since closing the file would release the lock
        raise InUseError(folder, "this very process")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise SenetError(f"{folder} can't be written to: {error.strerror}") from error
    with file:
        _acquire(file, folder)
        _ours.add(path)
        try:
            yield
        finally:
            _ours.discard(path)


def _acquire(file: IO[str], folder: Path) -> None:
    try:
        if _WINDOWS:
            os.lseek(file.fileno(), FAR, os.SEEK_SET)
            _system.locking(file.fileno(), _system.LK_NBLCK, 1)
        else:
            _system.lockf(file, _system.LOCK_EX | _system.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InUseError(folder, _holder(file)) from None
    except OSError:
        return  # a file system without locks
    file.seek(0)
    file.truncate()
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    with contextlib.suppress(OSError):  # on a full disk, the lock doesn't name its process
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        found = json.load(file)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
