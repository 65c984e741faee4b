"""Training states with checksums. The last few are kept, and the newest intact one is read.

A state is one file, `states/EPOCH-BATCH-HASH.ckpt`: the next epoch and batch, and the first digits of the SHA-256 of
its content. The hash is in the name, so that a file and its checksum appear in one step.
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
"""Hexadecimal digits of the hash in the name: 128 bits."""

NAME = re.compile(rf"(\d+)-(\d+)-([0-9a-f]{{{DIGITS}}})\.ckpt")


@dataclass(frozen=True, order=True)
class TrainingState:
    """One saved training state.

    Attributes:
        epoch: Next epoch, from 0.
        batch: Next batch of this epoch, from 0.
        written: Time of writing in nanoseconds. Of two states at the same position, the later counts.
        path: Path of the file.
    """

    epoch: int
    batch: int
    written: int
    path: Path

    @property
    def intact(self) -> bool:
        """Whether the file's content matches its checksum."""
        try:
            return sha256(self.path)[:DIGITS] == self.path.stem.rpartition("-")[2]
        except OSError:
            return False

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}, batch {self.batch}"


class TrainingStates:
    """The training states of the run in a folder.

    Args:
        folder: Folder of the run.
        keep: Number of states to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder / STATES
        self.keep = keep

    def all(self) -> list[TrainingState]:
        """Return all states, the newest first, whether intact or not."""
        found = []
        for path in self.folder.glob("*.ckpt"):
            parts = NAME.fullmatch(path.name)
            with contextlib.suppress(FileNotFoundError):  # removed by the training process
                if parts:
                    found.append(TrainingState(int(parts[1]), int(parts[2]), path.stat().st_mtime_ns, path))
        return sorted(found, reverse=True)

    def write(self, position: tuple[int, int], save: Callable[[Path], object]) -> TrainingState:
        """Write a state, then remove old states beyond the number to keep.

        Args:
            position: Next epoch and batch.
            save: Writes the state to a given path.

        Raises:
            OSError: The state can't be written. Older states are kept.
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

    def read(self, report: Callable[[str], object]) -> tuple[TrainingState, dict[str, Any]] | None:
        """Read the newest intact state. A corrupt one is reported and renamed to `.corrupt`.

        Returns:
            The state and its content, None if no state was ever saved.

        Raises:
            CheckpointError: There are states, but none is usable.
        """
        import torch

        states = self.all()
        for state in states:
            if not state.intact:
                if not state.path.exists():
                    return self.read(report)  # the training process has removed it and written a newer one
                report(f"{state.path} is truncated or altered: its checksum differs; taking the state before it")
                _mark_corrupt(state.path)
                continue
            try:
                return state, torch.load(state.path, map_location="cpu", weights_only=True)
            except Exception as error:
                if not state.path.exists():
                    return self.read(report)  # removed just now
                raise CheckpointError(
                    f"{state.path} can't be read ({type(error).__name__}): not written by this release"
                ) from error
        if states or any(self.folder.glob("*.ckpt.corrupt")):
            raise CheckpointError(f"{self.folder} has no intact state to resume from; start a new run in another --out")
        return None


def _mark_corrupt(path: Path) -> None:
    with contextlib.suppress(OSError):  # on a read-only file system, it is skipped again next time
        path.replace(path.with_name(f"{path.name}.corrupt"))
