"""Where the run in a folder stands. This file alone answers that, from the files that a run leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import CheckpointError
from senet.training.folder import BEST, JOB, LAST, METRICS, RESULT, STATES
from senet.training.outcome import Outcome, outcome_of, read_outcome

if TYPE_CHECKING:
    from senet.training.states import TrainingState

__all__ = ["RunStatus", "has_begun", "holds_results", "run_status"]


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        state: The training state to go on from. None before the first was saved: the run begins with its initial
            weights.
        outcome: The result, if the training has come to its end; None if not.
    """

    state: TrainingState | None
    outcome: Outcome | None


def has_begun(folder: Path) -> bool:
    """Whether a run was asked for there, however far it got."""
    return (folder / JOB).is_file()


def holds_results(folder: Path) -> bool:
    """Whether a new run there would overwrite something: training states or weights."""
    from senet.training.states import TrainingStates

    return bool(TrainingStates(folder).all()) or any((folder / name).exists() for name in (LAST, BEST, RESULT))


def run_status(
    folder: Path, *, epochs: int, score: str, patience: int = 0, tell: Callable[[str], object] = str
) -> RunStatus:
    """Say where the run in a folder stands.

    Args:
        folder: The run's.
        epochs: Number of epochs that are asked for: the run's own, or another number to train longer.
        score: Key of the score that chooses the best epoch, as `top1`.
        patience: Epochs without a better score after which the training stops; 0 is off.
        tell: Takes a line about each damaged state that is left out.

    Raises:
        CheckpointError: The run has trained epochs, and no state of it can be used.
        SenetError: It has ended without a finite validation score.
    """
    from senet.training.states import TrainingStates

    states = TrainingStates(folder)
    outcome = read_outcome(folder, epochs=epochs)
    # A longer run that was begun since has replaced what the result is about.
    if outcome is not None and not any(saved.epoch > epochs for saved in states.all()):
        return RunStatus(None, outcome)
    found = states.read(tell)
    if found is None:
        if (folder / RESULT).exists() or _epochs_written(folder) > 1:
            raise CheckpointError(
                f"{folder} can't be resumed: its {STATES} are gone; --checkpoint {folder} begins with its best network"
            )
        return RunStatus(None, None)
    from senet.training.checkpointer import TrainingCheckpointer

    saved, content = found
    kept = TrainingCheckpointer.saved_part(content)
    if tuple(kept["next"]) != (saved.epoch, saved.batch):
        raise CheckpointError(f"{saved.path} isn't named as it was written; give it its name back")
    outcome = None
    if saved.epoch >= epochs or _stopped_early(content, patience):
        outcome = outcome_of(kept["rows"], score, folder=folder)
    return RunStatus(saved, outcome)


def _epochs_written(folder: Path) -> int:
    table = folder / METRICS
    return len(table.read_text(encoding="utf-8").splitlines()) - 1 if table.is_file() else 0


def _stopped_early(content: dict[str, Any], patience: int) -> bool:
    waited = [kept["wait_count"] for name, kept in content["callbacks"].items() if name.startswith("EarlyStopping")]
    return bool(patience and waited and waited[0] >= patience)
