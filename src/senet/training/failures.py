"""Translate failures of a training to messages with the cause, the saved state and a remedy."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from senet.errors import CheckpointError, SenetError, from_worker
from senet.training.cluster import is_first_process

if TYPE_CHECKING:
    import lightning as L

    from senet.training.checkpointer import TrainingCheckpointer

__all__ = [
    "DIVERGED",
    "Diverged",
    "StepLoss",
    "diverged",
    "is_dead_loader",
    "is_out_of_memory",
    "translate_errors",
]

DIVERGED = "diverged.txt"
"""File in a run's folder with the reason why it diverged, for a parent process."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Diverged(SenetError):  # noqa: N818 - an event, not an error of the program
    """The loss or the weights became non-finite."""


class StepLoss(NamedTuple):
    """The loss of a batch, with the step and the learning rate that it came with."""

    step: int
    rate: float
    value: float


def diverged(what: str, trainer: L.Trainer, loss: StepLoss | None = None) -> Diverged:
    """Return the error for a non-finite value in the step of a loss, by default the current one."""
    step, rate = loss[:2] if loss else (trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"])
    frozen = trainer.lightning_module.recipe.freeze_bn  # type: ignore[union-attr]
    hint = "; --freeze-bn needs pretrained weights, since frozen norms don't bound activations" if frozen else ""
    return Diverged(f"{what} at step {step} (learning rate {rate:.4g}); try a smaller --lr or --clip-grad-norm 1{hint}")


def is_dead_loader(error: BaseException) -> bool:
    """Whether a data loading process has died."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory, in Python, on the CPU or on an accelerator."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    phrases = ("can't allocate memory", "out of memory", "cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(phrase in text for phrase in phrases)


@contextmanager
def translate_errors(checkpointer: TrainingCheckpointer, batch: str) -> Iterator[None]:
    """Translate errors within this context to a `SenetError` that names the saved state.

    Args:
        checkpointer: The run's checkpointer.
        batch: Shape of a step's images: "64 x 3 x 224 x 224".
    """
    if is_first_process():
        (checkpointer.folder / DIVERGED).unlink(missing_ok=True)  # from an earlier attempt
    try:
        yield
    except Diverged as error:
        epochs = len(checkpointer.rows)
        good = f"; the last good network is last.safetensors, from epoch {epochs}" if epochs else ""
        if is_first_process():
            (checkpointer.folder / DIVERGED).write_text(f"{error}{good}", encoding="utf-8")
        raise Diverged(f"{error}{good}") from error
    except (SenetError, OSError, RuntimeError, MemoryError) as error:
        message = _message(error, checkpointer.folder, batch)
        if message is None:
            raise
        raise SenetError(f"{message}\n{_saved_state(checkpointer)}") from error


def _message(error: BaseException, folder: Path, batch: str) -> str | None:
    if isinstance(error, MemoryError) and str(error):
        return f"{from_worker(error)}; use fewer --workers"
    if is_out_of_memory(error):
        return (
            f"out of memory with batches of {batch}; use --grad-checkpointing or --precision bf16, or start a new run "
            "with a smaller --batch-size"
        )
    if is_dead_loader(error):
        memory = "its shared memory (/dev/shm)" if "shared memory" in str(error) else "memory"
        return f"a data loading process died ({_worker(error)}); if {memory} ran out, use fewer --workers"
    full = isinstance(error, CheckpointError) and re.search(r"os error (\d+)", str(error))
    number = int(full[1]) if full else error.errno if isinstance(error, OSError) else None
    if number in NO_ROOM:
        return f"{folder}: no space left on the device"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or folder}: {error.strerror}"
    return from_worker(error) if isinstance(error, OSError) else None


def _worker(error: BaseException) -> str:
    """Extract `pid 4711, killed by signal: Killed` from PyTorch's message."""
    found = re.search(r"\(pid(?:\(s\))? ([\d, ]+)\) (?:is )?([\w ]+(?:: [\w ]+)?)", str(error))
    return f"pid {found[1]}, {found[2].strip()}" if found else str(error).splitlines()[0]


def _saved_state(checkpointer: TrainingCheckpointer) -> str:
    states = checkpointer.states.all()
    if not states:
        return "nothing was saved yet; start again"
    return f"the training is saved up to {states[0]}; continue with --resume {checkpointer.folder}"
