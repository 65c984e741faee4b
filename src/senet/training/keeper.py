"""What a run leaves in its folder: weights with their description, metrics, curves, and the state to go on from."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from senet.tasks.task import Score
from senet.training.curves import draw_curves
from senet.training.folder import BEST, CURVES, LAST, METRICS, STATE
from senet.training.interruption import Interrupted, StopRequest
from senet.training.progress import epoch_line
from senet.weights import Description, write_atomically, write_checkpoint

__all__ = ["Keeper"]


class Keeper(Checkpoint):
    """Writes after each epoch; each file atomically, so that a killed run leaves the epoch before.

    Being a Lightning checkpoint callback, it runs after the epoch's metrics are known.

    Args:
        folder: Exists already.
        describe: From metrics and epoch to what stands beside the weights.
        scores: What the epochs are judged by; the first chooses the best.
        stop: Asked after each step whether the user wants to stop.
        tell: Takes the line of each epoch.
        title: Of the curves.
    """

    def __init__(
        self,
        folder: Path,
        describe: Callable[[dict[str, float], int], Description],
        *,
        scores: Sequence[Score],
        stop: StopRequest,
        tell: Callable[[str], object],
        title: str = "",
    ) -> None:
        self.folder = folder
        self.describe = describe
        self.scores = scores
        self.stop = stop
        self.tell = tell
        self.title = title
        self.rows: list[dict[str, float]] = []
        self._next = (0, 0)
        self._images = 0
        self._since = 0.0
        self._earlier = 0.0

    @property
    def best(self) -> dict[str, float]:
        """The row with the highest validation score, the first of equals."""
        return max(self.rows, key=lambda row: row[f"val_{self.scores[0].key}"])

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, where to go on, and how much of this epoch's time and images is spent."""
        return {"rows": self.rows, "next": self._next, "images": self._images, "seconds": self._spent()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.rows = list(state_dict["rows"])
        self._images, self._earlier = state_dict["images"], state_dict["seconds"]

    @classmethod
    def position(cls, state: dict[str, Any]) -> tuple[int, int]:
        """Epoch and batch that come next, from a whole saved state."""
        epoch, batch = state["callbacks"][cls.__qualname__]["next"]
        return epoch, batch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all processes; stop here if the user asked for it.

        The last batch of an epoch is followed by the validation, so the stop waits for that.

        Raises:
            Interrupted: After saving the state.
        """
        self._images += len(batch.images) * trainer.world_size
        if batch_idx + 1 < trainer.num_training_batches and self._asked_to_stop(trainer):
            self._next = (trainer.current_epoch, batch_idx + 1)
            self.save_state(trainer)
            raise Interrupted

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock: the speed is the training's."""
        self._earlier, self._since = self._spent(), 0.0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write everything.

        Raises:
            Interrupted: The user asked for it.
        """
        row = self._row(trainer)
        self.rows.append(row)
        self._images, self._earlier = 0, 0.0
        self._next = (trainer.current_epoch + 1, 0)
        weights = _kept_weights(trainer)
        if trainer.is_global_zero:
            self._write(row, weights, int(trainer.max_epochs or 0))
        # The state goes last: whoever is killed before repeats the epoch and writes the same files again.
        self.save_state(trainer)
        if self._next[0] < int(trainer.max_epochs or 0) and self._asked_to_stop(trainer):
            raise Interrupted

    def _write(self, row: dict[str, float], weights: dict[str, Tensor], epochs: int) -> None:
        metrics = {key[4:]: value for key, value in row.items() if key.startswith("val_")}
        description = self.describe(metrics, int(row["epoch"]))
        write_checkpoint(self.folder / LAST, weights, description)
        if self.best is row:
            write_checkpoint(self.folder / BEST, weights, description)
        write_atomically(self.folder / METRICS, self._write_table)
        write_atomically(self.folder / CURVES, lambda path: draw_curves(self.rows, path, self.scores[0], self.title))
        self.tell(epoch_line(row, epochs, self.scores))

    def save_state(self, trainer: L.Trainer) -> None:
        """Write the state to resume from; every process must call it."""
        if trainer.is_global_zero:
            write_atomically(self.folder / STATE, trainer.save_checkpoint)
        else:
            trainer.save_checkpoint(self.folder / STATE)

    def _asked_to_stop(self, trainer: L.Trainer) -> bool:
        return trainer.strategy.reduce_boolean_decision(self.stop.requested, all=False)

    def _spent(self) -> float:
        return self._earlier + (time.monotonic() - self._since if self._since else 0.0)

    def _row(self, trainer: L.Trainer) -> dict[str, float]:
        seconds = self._spent()
        metrics = {key.replace("/", "_"): float(value) for key, value in sorted(trainer.callback_metrics.items())}
        return {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **metrics,
            "seconds": round(seconds, 3),
            "images_per_second": round(self._images / max(seconds, 1e-9), 1),
        }

    def _write_table(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=list(self.rows[-1]))
            table.writeheader()
            table.writerows(self.rows)


def _kept_weights(trainer: L.Trainer) -> dict[str, Tensor]:
    """The validated network's state dict, gathered from all processes where it is in pieces."""
    state = trainer.strategy.lightning_module_state_dict()
    prefix = "average.module." if any(key.startswith("average.") for key in state) else "model."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
