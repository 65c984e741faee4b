"""The status of the run in a folder, determined from its files."""

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

__all__ = ["RunStatus", "has_run", "holds_results", "run_status"]


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

    Attributes:
        state: The training state to resume from. None before the first one: the run starts from its initial weights.
        outcome: The result of a finished training, else None.
    """

    state: TrainingState | None
    outcome: Outcome | None


def has_run(folder: Path) -> bool:
    """Whether the folder contains a run, at any stage."""
    return (folder / JOB).is_file()


def holds_results(folder: Path) -> bool:
    """Whether the folder contains training states, weights or results that a new run would overwrite."""
    from senet.training.states import TrainingStates

    return bool(TrainingStates(folder).all()) or any((folder / name).exists() for name in (LAST, BEST, RESULT))


def run_status(
    folder: Path, *, epochs: int, metric: str, patience: int = 0, report: Callable[[str], object] = str
) -> RunStatus:
    """Determine the status of the run in a folder.

    Args:
        folder: Folder of the run.
        epochs: Requested number of epochs: the run's own, or a larger one.
        metric: Key of the metric that chooses the best epoch, such as `top1`.
        patience: Epochs without a better metric after which the training stops. 0 is off.
        report: Called with a line about each skipped corrupt state.

    Raises:
        CheckpointError: The run has trained epochs, but none of its states is usable.
        SenetError: The run finished without a finite validation metric.
    """
    from senet.training.states import TrainingStates

    states = TrainingStates(folder)
    outcome = read_outcome(folder, epochs=epochs)
    # The result is outdated if a longer run was started since.
    if outcome is not None and not any(saved.epoch > epochs for saved in states.all()):
        return RunStatus(None, outcome)
    found = states.read(report)
    if found is None:
        if (folder / RESULT).exists() or _epochs_written(folder) > 1:
            raise CheckpointError(
                f"{folder} can't be resumed: its {STATES} are missing; use --checkpoint {folder} to start from its "
                "best network"
            )
        return RunStatus(None, None)
    from senet.training.checkpointer import TrainingCheckpointer

    saved, content = found
    kept = TrainingCheckpointer.saved_part(content)
    if tuple(kept["next"]) != (saved.epoch, saved.batch):
        raise CheckpointError(f"{saved.path} was renamed; restore its original name")
    outcome = None
    if saved.epoch >= epochs or _stopped_early(content, patience):
        outcome = outcome_of(kept["rows"], metric, folder=folder)
    return RunStatus(saved, outcome)


def _epochs_written(folder: Path) -> int:
    table = folder / METRICS
    return len(table.read_text(encoding="utf-8").splitlines()) - 1 if table.is_file() else 0


def _stopped_early(content: dict[str, Any], patience: int) -> bool:
    waited = [kept["wait_count"] for name, kept in content["callbacks"].items() if name.startswith("EarlyStopping")]
    return bool(patience and waited and waited[0] >= patience)
