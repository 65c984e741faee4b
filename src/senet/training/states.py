"""The states that a run can go on from: checksummed, the last few kept, the newest whole one found.

A state is one file, `states/EPOCH-BATCH-HASH.ckpt`: epoch and batch that come next, and the beginning of the SHA-256 of
its content. As the hash is in the name, a file and its checksum appear in one step, and neither can be there alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senet.errors import CheckpointError
from senet.training.folder import STATES
from senet.weights.files import sha256, sync_folder, write_atomically

__all__ = ["TrainingState", "TrainingStates"]

DIGITS = 32
"""Of the hash, hexadecimal: 128 bits."""

NAME = re.compile(rf"(\d+)-(\d+)-([0-9a-f]{{{DIGITS}}})\.ckpt")


@dataclass(frozen=True, order=True)
class TrainingState:
    """One saved state.

    Attributes:
        epoch: Epoch that comes next, from 0.
        batch: Batch of it that comes next, from 0.
        written: When it was written, in nanoseconds: of two at one place, the later counts.
        path: Its file.
    """

    epoch: int
    batch: int
    written: int
    path: Path

    @property
    def whole(self) -> bool:
        """Whether the file is what was written."""
        try:
            return sha256(self.path)[:DIGITS] == self.path.stem.rpartition("-")[2]
        except OSError:
            return False

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, batch {self.batch}"


class TrainingStates:
    """The states of the run in a folder.

    Args:
        folder: The run's.
        keep: How many to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder / STATES
        self.keep = keep

    def all(self) -> list[TrainingState]:
        """Those there are, the newest first, whether whole or not."""
        found = []
        for path in self.folder.glob("*.ckpt"):
            parts = NAME.fullmatch(path.name)
            with contextlib.suppress(FileNotFoundError):  # the process that trains has dropped it
                if parts:
                    found.append(TrainingState(int(parts[1]), int(parts[2]), path.stat().st_mtime_ns, path))
        return sorted(found, reverse=True)

    def write(self, position: tuple[int, int], save: Callable[[Path], object]) -> TrainingState:
        """Write one, then drop those beyond the number to keep.

        Args:
            position: Epoch and batch that come next.
            save: Writes it to the path that it is given.

        Raises:
            OSError: It can't be written; those from before are untouched.
        """
        if not self.folder.is_dir():
            self.folder.mkdir()
            sync_folder(self.folder.parent)

        def named(written: Path) -> Path:
            return self.folder / f"{position[0]:05d}-{position[1]:07d}-{sha256(written)[:DIGITS]}.ckpt"

        path = write_atomically(self.folder / "state.ckpt", save, named=named)
        for old in self.all()[self.keep :]:
            old.path.unlink(missing_ok=True)
        return TrainingState(*position, path.stat().st_mtime_ns, path)

    def read(self, tell: Callable[[str], object]) -> tuple[TrainingState, dict[str, Any]] | None:
        """The newest state that is whole; one that isn't is told, and set aside as `.broken`.

        Returns:
            None if none was ever saved.

        Raises:
            CheckpointError: There are states, and none can be used.
        """
        import torch

        states = self.all()
        for state in states:
            if not state.whole:
                if not state.path.exists():
                    return self.read(tell)  # a process that trains has dropped it, and written a newer one
                tell(f"{state.path} is truncated or altered: its checksum differs; taking the state before it")
                _set_aside(state.path)
                continue
            try:
                return state, torch.load(state.path, map_location="cpu", weights_only=True)
            except Exception as error:
                if not state.path.exists():
                    return self.read(tell)  # dropped just now
                raise CheckpointError(
                    f"{state.path} can't be read ({type(error).__name__}): not written by this release"
                ) from error
        if states or any(self.folder.glob("*.ckpt.broken")):
            raise CheckpointError(f"{self.folder} holds no whole state to go on from; start anew in another --out")
        return None


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):  # where nothing can be written, it is found and left out again next time
        path.replace(path.with_name(f"{path.name}.broken"))
