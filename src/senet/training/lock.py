"""One process a folder: whoever trains into it holds a lock, and says who it is."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from senet.errors import SenetError

try:
    import fcntl
except ImportError:  # Windows has none; there, nothing is locked
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "InUseError", "lock_folder"]

LOCK = ".lock"
"""Who trains into the folder; the file stays, the lock on it goes with its process."""

_ours: set[Path] = set()
"""Folders that this process holds: the system's lock is between processes only."""


class InUseError(SenetError):
    """Somebody trains into a folder already.

    Args:
        folder: That.
        holder: Who, in words.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        super().__init__(f"{folder} is in use by {holder}; wait until it ends, or choose another --out")
        self.holder = holder


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if need be, within the block.

    The system's own record lock: it ends with the process, however that ends, and is not inherited by the processes
    that load images. It works on network file systems that pass locks on.

    Raises:
        InUseError: Another process holds it; the message says which.
        SenetError: The folder can't be written to.
    """
    path = (folder / LOCK).resolve()
    if path in _ours:  # before it is opened: closing it would give the lock up
        raise InUseError(folder, "this very process")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise SenetError(f"{folder} can't be written to: {error.strerror}") from error
    with file:
        _take(file, folder)
        _ours.add(path)
        try:
            yield
        finally:
            _ours.discard(path)


def _take(file: IO[str], folder: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise InUseError(folder, _holder(file)) from None
    except OSError:
        return  # a file system without locks
    file.seek(0)
    file.truncate()
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    with contextlib.suppress(OSError):  # a full disk: then the lock says nothing of its holder
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": since}, file)
        file.flush()


def _holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        found = json.load(file)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
