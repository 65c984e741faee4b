"""Write a run's checkpoints, metrics, curves and training states."""

from __future__ import annotations

import csv
import math
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
from senet.training.failures import StepLoss, diverged, is_dead_loader
from senet.training.folder import BEST, CURVES, LAST, METRICS
from senet.training.interruption import Interrupted, StopRequest
from senet.training.logs import Logs
from senet.training.outcome import best_row
from senet.training.progress import epoch_line
from senet.training.pulse import Pulse, any_process
from senet.training.recipe import RunOptions
from senet.training.states import TrainingStates
from senet.weights import CheckpointMetadata, write_checkpoint
from senet.weights.files import write_atomically

__all__ = ["TrainingCheckpointer"]


class TrainingCheckpointer(Checkpoint):
    """Writes checkpoints after each epoch, and training states within epochs. Each file is written atomically.

    As a Lightning checkpoint callback, it runs after the epoch's metrics are computed.

    Args:
        folder: Existing folder of the run.
        describe: Makes checkpoint metadata from metrics and epoch.
        metrics: Validation metrics. The first one chooses the best epoch.
        stop: The user's request to stop, checked after each step.
        report: Called with a line after each epoch.
        run: Options with the interval and number of saved states, and the loggers.
        corrupt_images: Report of corrupt images, part of the training state.
        title: Title of the curves.
    """

    def __init__(
        self,
        folder: Path,
        describe: Callable[[dict[str, float], int], CheckpointMetadata],
        *,
        metrics: Sequence[Metric],
        stop: StopRequest,
        report: Callable[[str], object],
        run: RunOptions | None = None,
        corrupt_images: CorruptImageReport | None = None,
        title: str = "",
    ) -> None:
        run = run or RunOptions()
        self.folder = folder
        self.describe = describe
        self.metrics = metrics
        self.stop = stop
        self.report = report
        self.title = title
        self.corrupt_images = corrupt_images
        self.states = TrainingStates(folder, run.keep_states)
        self.every = run.save_steps, run.save_seconds
        self.loggers, self.log_every = run.loggers, run.log_every
        self.pulse = Pulse()
        self.rows: list[dict[str, float]] = []
        self.losses: list[tuple[int, float]] = []
        self.saved = ""
        self._logs: Logs | None = None
        self._next = (0, 0)
        self._images = 0
        self._since = 0.0
        self._earlier = 0.0
        self._saved_at = time.monotonic()

    @property
    def best(self) -> dict[str, float] | None:
        """Row of the best epoch, see `best_row`."""
        return best_row(self.rows, self.metrics[0].key)

    def state_dict(self) -> dict[str, Any]:
        """Return rows and logged losses so far, the next position, the time in this epoch, and the corrupt images."""
        reasons = dict(self.corrupt_images.reasons) if self.corrupt_images else {}
        return {
            "rows": self.rows,
            "losses": self.losses,
            "next": self._next,
            "images": self._images,
            "seconds": self._spent(),
            "corrupt_images": reasons,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.rows, self.losses = list(state_dict["rows"]), list(state_dict.get("losses", ()))
        self._images, self._earlier = state_dict["images"], state_dict["seconds"]
        if self.corrupt_images is not None:
            self.corrupt_images.reasons.update(state_dict["corrupt_images"])

    @classmethod
    def saved_part(cls, state: dict[str, Any]) -> dict[str, Any]:
        """Return the result of `state_dict` from a complete saved state."""
        part: dict[str, Any] = state["callbacks"][cls.__qualname__]
        return part

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the loggers with the epochs of a resumed run, which may be within an epoch."""
        self._since = time.monotonic()
        self.stop.install()  # Lightning's own SIGTERM handler would wait for the other processes
        if trainer.is_global_zero:
            recipe = pl_module.recipe.to_dict()  # type: ignore[operator, union-attr]
            self._logs = Logs(self.folder, self.loggers, rows=self.rows, losses=self.losses, hyperparameters=recipe)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the loggers of a complete run."""
        self._close_logs(complete=True)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic()
        self.pulse.restart()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images of all processes. Save the state if it is time, and stop if the user asked for it.

        Processes decide about once a second, see `Pulse`. After the last batch of an epoch, both wait for the
        validation. A state contains no accumulated gradients, so both wait for the optimizer's step.

        Raises:
            Interrupted: The user asked to stop. The state is saved.
            Diverged: The loss or the weights are non-finite.
        """
        self._images += len(batch.images) * trainer.world_size
        done = batch_idx + 1
        last, pulse = done >= trainer.num_training_batches, self.pulse.due()
        if not last and done % trainer.accumulate_grad_batches:
            return
        steps, every = done // trainer.accumulate_grad_batches, self.every[0]
        save = bool(every) and steps % every == 0
        if not (pulse or last or save or (self.stop.requested and trainer.world_size == 1)):
            return
        losses = self._read_losses(pl_module)
        loss = next((one for one in losses if not math.isfinite(one.value)), None)
        # All processes decide together, since each must take part in saving, and a single one would wait for others.
        stop, late, non_finite = self.pulse.decide(trainer, [self.stop.requested, self._is_late(), loss is not None])
        if non_finite:
            raise diverged(f"the loss became {loss.value if loss else 'non-finite in another process'}", trainer, loss)
        if last or not (save or stop or late):
            return
        self._next = (trainer.current_epoch, done)
        self.save_state(trainer)
        if any_process(trainer, self.stop.requested):
            raise Interrupted

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock, which measures training only. From now on a single process stops at once if asked to.

        Raises:
            Interrupted: The user asked to stop since the last step.
        """
        self._earlier, self._since = self._spent(), 0.0
        self.pulse.restart()
        trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset()  # a resumed validation starts again
        self.stop.immediate = trainer.world_size == 1
        if self.stop.immediate and self.stop.requested:
            raise Interrupted

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Stop several processes together, after a batch that all of them have.

        Raises:
            Interrupted: The user asked to stop.
        """
        if (
            trainer.world_size > 1
            and batch_idx < _shared_batches(trainer)
            and self.pulse.due()
            and self.pulse.decide(trainer, [self.stop.requested])[0]
        ):
            raise Interrupted

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Delay stops from now on, since files are being written."""
        self.stop.immediate = False

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let an interrupted validation start again, since a state contains no validation sums."""
        if trainer.validating:
            before = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress.update(total=dict(before), current=dict(before), is_last_batch=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write checkpoints, metrics, curves and the training state.

        Raises:
            Interrupted: The user asked to stop.
            Diverged: The weights are non-finite.
        """
        _check_finite(trainer)
        row = self._row(trainer)
        self.rows.append(row)
        self._images, self._earlier = 0, 0.0
        self._next = (trainer.current_epoch + 1, 0)
        weights = _validated_weights(trainer)
        if trainer.is_global_zero:
            self._write(row, weights, int(trainer.max_epochs or 0))
        # The state is written last. A run that is killed before repeats the epoch and writes the same files again.
        self.save_state(trainer)
        if self._next[0] < int(trainer.max_epochs or 0) and any_process(trainer, self.stop.requested):
            raise Interrupted

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save the state if the user stops the validation, or if a data loading process has died.

        A dead loader is detected between two steps or in the validation, where no weights change.
        """
        self.stop.immediate = False
        try:
            self._save_interrupted(trainer, pl_module, exception)
        finally:
            self._close_logs(complete=False)

    def _save_interrupted(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        dead = is_dead_loader(exception) and trainer.world_size == 1
        if trainer.validating and (dead or isinstance(exception, Interrupted)):
            self._next = (trainer.current_epoch, int(trainer.num_training_batches))
            self.save_state(trainer)
        if not dead or not trainer.training:
            return
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        done = progress.completed
        if done and progress.ready == done and done % trainer.accumulate_grad_batches == 0:
            self._read_losses(pl_module)
            self._next = (trainer.current_epoch, done)
            self.save_state(trainer)

    def _read_losses(self, module: L.LightningModule) -> list[StepLoss]:
        """Return the losses of this process since the last call, and log the finite ones of every `log_every`-th step.

        A step's loss is the mean over its micro-batches. It comes with the decision after the step.
        """
        losses: list[StepLoss] = module.read_losses()  # type: ignore[operator]
        found: dict[int, list[float]] = {}
        for one in losses if self.log_every else ():
            if (one.step + 1) % self.log_every == 0 and math.isfinite(one.value):
                found.setdefault(one.step + 1, []).append(one.value)
        logged = [(step, sum(values) / len(values)) for step, values in found.items()]
        self.losses += logged
        if self._logs is not None:
            self._logs.add_losses(logged)
        return losses

    def _close_logs(self, *, complete: bool) -> None:
        if self._logs is not None:
            self._logs.close(complete=complete)
            self._logs = None

    def _write(self, row: dict[str, float], weights: dict[str, Tensor], epochs: int) -> None:
        metrics = {key[4:]: value for key, value in row.items() if key.startswith("val_")}
        metadata = self.describe(metrics, int(row["epoch"]))
        write_checkpoint(self.folder / LAST, weights, metadata)
        if self.best is row:
            write_checkpoint(self.folder / BEST, weights, metadata)
        if best_row([row], self.metrics[0].key) is None:
            self.report(f"epoch {row['epoch']:.0f}: non-finite validation loss or metric; it can't be the best epoch")
        write_atomically(self.folder / METRICS, self._write_table)
        write_atomically(self.folder / CURVES, lambda path: draw_curves(self.rows, path, self.metrics[0], self.title))
        if self._logs is not None:
            self._logs.add(row)
        self.report(epoch_line(row, epochs, self.metrics))

    def save_state(self, trainer: L.Trainer) -> None:
        """Write the training state. Every process must call it.

        Raises:
            Diverged: The weights are non-finite.
        """
        _check_finite(trainer)
        if trainer.is_global_zero:
            self.saved = str(self.states.write(self._next, trainer.save_checkpoint))
        else:
            trainer.save_checkpoint(self.folder / "unused.ckpt")  # takes part in gathering, writes nothing
        self._saved_at = time.monotonic()

    def _is_late(self) -> bool:
        seconds = self.every[1]
        return bool(seconds) and time.monotonic() - self._saved_at >= seconds

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


def _shared_batches(trainer: L.Trainer) -> int:
    """Return the number of validation batches that all processes have. Their numbers may differ by one."""
    sampler = trainer.val_dataloaders.batch_sampler  # type: ignore[union-attr]
    return int(sampler.shared_batches)


def _check_finite(trainer: L.Trainer) -> None:
    names, weights = zip(*trainer.lightning_module.named_parameters(), strict=True)
    finite = torch.stack([torch.isfinite(tensor).all() for tensor in weights]).tolist()  # one wait for the device
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if any_process(trainer, bool(bad)):
        where = (
            f"{bad[0]}: the weights became non-finite" if bad else "the weights became non-finite in another process"
        )
        raise diverged(where, trainer)


def _validated_weights(trainer: L.Trainer) -> dict[str, Tensor]:
    """Return the validated network's state dict, gathered from all processes where it is sharded."""
    state = trainer.strategy.lightning_module_state_dict()
    prefix = "average.module." if any(key.startswith("average.") for key in state) else "model."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
