"""What a run leaves in its folder: weights with their description, metrics, curves, and the state to go on from."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from senet.data.corrupt_images import CorruptImageReport
from senet.tasks.task import Metric
from senet.training.curves import draw_curves
from senet.training.failures import diverged, is_dead_loader
from senet.training.folder import BEST, CURVES, LAST, METRICS
from senet.training.interruption import Interrupted, StopRequest
from senet.training.logs import TensorBoard
from senet.training.outcome import best_row
from senet.training.progress import epoch_line
from senet.training.recipe import RunOptions
from senet.training.states import TrainingStates
from senet.weights import CheckpointMetadata, write_checkpoint
from senet.weights.files import write_atomically

__all__ = ["TrainingCheckpointer"]


class TrainingCheckpointer(Checkpoint):
    """Writes after each epoch, and a state to resume from now and then within one; each file atomically.

    Being a Lightning checkpoint callback, it runs after the epoch's metrics are known.

    Args:
        folder: Exists already.
        describe: From metrics and epoch to what stands beside the weights.
        metrics: What the epochs are judged by; the first chooses the best.
        stop: Asked after each step whether the user wants to stop.
        tell: Takes the line of each epoch.
        run: Says how often a state is saved, and how many are kept.
        broken: What the run knows of broken images is part of its state.
        title: Of the curves.
    """

    def __init__(
        self,
        folder: Path,
        describe: Callable[[dict[str, float], int], CheckpointMetadata],
        *,
        metrics: Sequence[Metric],
        stop: StopRequest,
        tell: Callable[[str], object],
        run: RunOptions | None = None,
        broken: CorruptImageReport | None = None,
        title: str = "",
    ) -> None:
        run = run or RunOptions()
        self.folder = folder
        self.describe = describe
        self.metrics = metrics
        self.stop = stop
        self.tell = tell
        self.title = title
        self.broken = broken
        self.states = TrainingStates(folder, run.keep_states)
        self.every = run.save_steps, run.save_seconds
        self.rows: list[dict[str, float]] = []
        self.saved = ""
        self._logs: TensorBoard | None = None
        self._next = (0, 0)
        self._images = 0
        self._since = 0.0
        self._earlier = 0.0
        self._saved_at = time.monotonic()

    @property
    def best(self) -> dict[str, float] | None:
        """The row of the best epoch, see `best_row`."""
        return best_row(self.rows, self.metrics[0].key)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far, where to go on, how much of this epoch is spent, and which images were broken."""
        reasons = dict(self.broken.reasons) if self.broken else {}
        return {
            "rows": self.rows, "next": self._next, "images": self._images, "seconds": self._spent(), "broken": reasons
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.rows = list(state_dict["rows"])
        self._images, self._earlier = state_dict["images"], state_dict["seconds"]
        if self.broken is not None:
            self.broken.reasons.update(state_dict["broken"])

    @classmethod
    def saved_part(cls, state: dict[str, Any]) -> dict[str, Any]:
        """Return what `state_dict` gave, from a whole saved state."""
        part: dict[str, Any] = state["callbacks"][cls.__qualname__]
        return part

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the log, with the epochs that a resumed run has behind it; its epoch may be under way."""
        self._since = time.monotonic()
        self.stop.install()  # Lightning's own handler of SIGTERM waits, within the handler, for the other processes
        if trainer.is_global_zero:
            self._logs = TensorBoard(self.folder / "tensorboard", self.rows)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the log."""
        if self._logs is not None:
            self._logs.close()
            self._logs = None

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all processes; save the state if it is time, and stop if the user asked for it.

        The last batch of an epoch is followed by the validation, so both wait for that; gradients that are still
        being added up are in no state, so both wait for the optimiser's step.

        Raises:
            Interrupted: After saving the state.
            Diverged: There is nothing worth saving.
        """
        self._images += len(batch.images) * trainer.world_size
        done = batch_idx + 1
        if done >= trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        # One decision of all processes: each must take part in saving.
        if not _agreed(trainer, self.stop.requested or self._is_time(done // trainer.accumulate_grad_batches)):
            return
        self._next = (trainer.current_epoch, done)
        self.save_state(trainer)
        if _agreed(trainer, self.stop.requested):
            raise Interrupted

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock: the speed is the training's. From now on a single process stops at once if asked to.

        Raises:
            Interrupted: The user asked for it since the last step.
        """
        self._earlier, self._since = self._spent(), 0.0
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset()  # a resumed validation begins anew
        self.stop.immediate = trainer.world_size == 1
        if self.stop.immediate and self.stop.requested:
            raise Interrupted

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stop several processes together, after a batch that each of them has.

        Raises:
            Interrupted: The user asked for it.
        """
        if trainer.world_size > 1 and batch_idx < _shared_batches(trainer) and _agreed(trainer, self.stop.requested):
            raise Interrupted

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """From now on files are written: a stop waits for that."""
        self.stop.immediate = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a validation that was stopped begin anew: its sums are in no state."""
        if trainer.validating:
            before = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress.update(total=dict(before), current=dict(before), is_last_batch=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write everything.

        Raises:
            Interrupted: The user asked for it.
            Diverged: There is nothing worth writing.
        """
        _refuse_unfinite(trainer)
        row = self._row(trainer)
        self.rows.append(row)
        self._images, self._earlier = 0, 0.0
        self._next = (trainer.current_epoch + 1, 0)
        weights = _kept_weights(trainer)
        if trainer.is_global_zero:
            self._write(row, weights, int(trainer.max_epochs or 0))
        # The state goes last: whoever is killed before repeats the epoch and writes the same files again.
        self.save_state(trainer)
        if self._next[0] < int(trainer.max_epochs or 0) and _agreed(trainer, self.stop.requested):
            raise Interrupted

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save where the run is if the user stops the validation, or a process that loads images has died.

        A loader's death is noticed between two steps, or in the validation. There the epoch's training is done and
        no weight changes.
        """
        self.stop.immediate = False
        dead = is_dead_loader(exception) and trainer.world_size == 1
        if trainer.validating and (dead or isinstance(exception, Interrupted)):
            self._next = (trainer.current_epoch, int(trainer.num_training_batches))
            self.save_state(trainer)
        if not dead or not trainer.training:
            return
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.completed
        if done and progress.ready == done and done % trainer.accumulate_grad_batches == 0:
            self._next = (trainer.current_epoch, done)
            self.save_state(trainer)

    def _write(self, row: dict[str, float], weights: dict[str, Tensor], epochs: int) -> None:
        metrics = {key[4:]: value for key, value in row.items() if key.startswith("val_")}
        description = self.describe(metrics, int(row["epoch"]))
        write_checkpoint(self.folder / LAST, weights, description)
        if self.best is row:
            write_checkpoint(self.folder / BEST, weights, description)
        if best_row([row], self.metrics[0].key) is None:
            self.tell(f"epoch {row['epoch']:.0f}: the validation's loss or score is not finite; it can't be the best")
        write_atomically(self.folder / METRICS, self._write_table)
        write_atomically(self.folder / CURVES, lambda path: draw_curves(self.rows, path, self.metrics[0], self.title))
        if self._logs is not None:
            self._logs.add(row)
        self.tell(epoch_line(row, epochs, self.metrics))

    def save_state(self, trainer: L.Trainer) -> None:
        """Write the state to resume from; every process must call it.

        Raises:
            Diverged: The weights are no numbers: going on from there is useless.
        """
        _refuse_unfinite(trainer)
        if trainer.is_global_zero:
            self.saved = str(self.states.write(self._next, trainer.save_checkpoint))
        else:
            trainer.save_checkpoint(self.folder / "unused.ckpt")  # takes part in gathering, writes nothing
        self._saved_at = time.monotonic()

    def _is_time(self, steps: int) -> bool:
        every, seconds = self.every
        return bool(every and steps % every == 0) or bool(seconds and time.monotonic() - self._saved_at >= seconds)

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


def _agreed(trainer: L.Trainer, wanted: bool) -> bool:
    """Whether any process wants it."""
    return trainer.strategy.reduce_boolean_decision(wanted, all=False)


def _shared_batches(trainer: L.Trainer) -> int:
    """Validation batches that every process has: their numbers may differ by one."""
    sampler = trainer.val_dataloaders.batch_sampler  # type: ignore[union-attr]
    return int(sampler.shared_batches)


def _refuse_unfinite(trainer: L.Trainer) -> None:
    for name, tensor in trainer.lightning_module.named_parameters():
        if not torch.isfinite(tensor).all():
            raise diverged(f"{name}: the weights became no numbers", trainer)


def _kept_weights(trainer: L.Trainer) -> dict[str, Tensor]:
    """The validated network's state dict, gathered from all processes where it is in pieces."""
    state = trainer.strategy.lightning_module_state_dict()
    prefix = "average.module." if any(key.startswith("average.") for key in state) else "model."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
