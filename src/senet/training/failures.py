"""What can end a training from outside, in a line or two: what happened, what is kept, how to go on."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from senet.errors import CheckpointError, SenetError, from_worker
from senet.training.cluster import is_first_process

if TYPE_CHECKING:
    import lightning as L

    from senet.training.checkpointer import TrainingCheckpointer

__all__ = ["DIVERGED", "Diverged", "diverged", "is_dead_loader", "is_out_of_memory", "translate_errors"]

DIVERGED = "diverged.txt"
"""Why a run is lost, in its folder, for whoever started it as another process."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Diverged(SenetError):  # noqa: N818 - named as what it is about
    """A loss or weights that are no numbers: the training is lost from there on."""


def diverged(what: str, trainer: L.Trainer) -> Diverged:
    """The error to raise where something became no number in the step at hand."""
    rate = trainer.optimizers[0].param_groups[0]["lr"]
    frozen = trainer.lightning_module.recipe.freeze_bn  # type: ignore[union-attr]
    hint = "; --freeze-bn is for pretrained weights: it bounds nothing" if frozen else ""
    return Diverged(
        f"{what} at step {trainer.global_step} (learning rate {rate:.4g}); try a smaller --lr or "
        f"--clip-grad-norm 1{hint}"
    )


def is_dead_loader(error: BaseException) -> bool:
    """Whether a process that loads images has died."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by Python, the processor's allocator or an accelerator's."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    told = ("can't allocate memory", "out of memory", "cannot allocate memory")
    return isinstance(error, RuntimeError | OSError) and any(words in text for words in told)


@contextmanager
def translate_errors(keeper: TrainingCheckpointer, batch: str) -> Iterator[None]:
    """Turn what ends a training within the block into a `SenetError` that says what is kept.

    Args:
        keeper: Knows what was saved.
        batch: The images of a step, in words: "64 x 3 x 224 x 224".
    """
    if is_first_process():
        (keeper.folder / DIVERGED).unlink(missing_ok=True)  # of a run that is tried again
    try:
        yield
    except Diverged as error:
        good = f"; the last good network is last.safetensors, of epoch {len(keeper.rows)}" if keeper.rows else ""
        if is_first_process():
            (keeper.folder / DIVERGED).write_text(f"{error}{good}", encoding="utf-8")
        raise Diverged(f"{error}{good}") from error
    except (SenetError, OSError, RuntimeError, MemoryError) as error:
        words = _words(error, keeper.folder, batch)
        if words is None:
            raise
        raise SenetError(f"{words}\n{_kept(keeper)}") from error


def _words(error: BaseException, folder: Path, batch: str) -> str | None:
    if isinstance(error, MemoryError) and str(error):
        return f"{from_worker(error)}; fewer --workers need less"
    if is_out_of_memory(error):
        return (
            f"out of memory with batches of {batch}; --grad-checkpointing or --precision bf16 need less, and so does a "
            "new run with a smaller --batch-size"
        )
    if is_dead_loader(error):
        memory = "its shared memory (/dev/shm)" if "shared memory" in str(error) else "memory"
        return f"a process that loads images died ({_which(error)}); if {memory} ran out, fewer --workers need less"
    full = isinstance(error, CheckpointError) and re.search(r"os error (\d+)", str(error))
    number = int(full[1]) if full else error.errno if isinstance(error, OSError) else None
    if number in NO_ROOM:
        return f"{folder}: no room left to write"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or folder}: {error.strerror}"
    return from_worker(error) if isinstance(error, OSError) else None


def _which(error: BaseException) -> str:
    """`pid 4711, killed by signal: Killed`, from PyTorch's sentence."""
    found = re.search(r"\(pid(?:\(s\))? ([\d, ]+)\) (?:is )?([\w ]+(?:: [\w ]+)?)", str(error))
    return f"pid {found[1]}, {found[2].strip()}" if found else str(error).splitlines()[0]


def _kept(keeper: TrainingCheckpointer) -> str:
    states = keeper.states.all()
    if not states:
        return "nothing was saved yet: begin anew"
    return f"what was saved is whole, up to {states[0]}; go on with --resume {keeper.folder}"
