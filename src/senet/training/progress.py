"""The progress display of a training: one bar for the run, one line per epoch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import lightning as L
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from torch import Tensor

from senet.console import plain_progress
from senet.tasks.task import Metric

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ProgressLine", "epoch_line", "progress_bar"]

REFRESH_S: Final = 1.0
"""Time between two reads of loss and accuracy."""


def progress_bar(console: Console | None = None) -> Progress:
    """Make a progress bar with a text at its right. It is silent without a terminal."""
    return plain_progress(
        "{task.description}",
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        "{task.fields[text]}",
        TimeRemainingColumn(),
        "left",
        console=console,
    )


def epoch_line(row: dict[str, float], epochs: int, metrics: Sequence[Metric]) -> str:
    """Format an epoch's result as a line, with the measured metrics in percent."""
    columns = []
    for split in ("train", "val"):
        loss = f"  loss {row[f'{split}_loss']:.4f}" if f"{split}_loss" in row else ""
        shown = [(s.title, row[f"{split}_{s.key}"]) for s in metrics if f"{split}_{s.key}" in row]
        columns.append(f"{split}{loss}" + "".join(f"  {title} {value:6.2%}" for title, value in shown))
    speed = f"{row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s"
    return f"epoch {row['epoch']:.0f}/{epochs}  " + "  |  ".join([*columns, speed])


class ProgressLine(L.Callback):
    """Shows loss, accuracy, images per second, the fraction of time waiting for data, and the remaining time.

    Only the first process prints, about its own images. The waiting time lies between the end of a step and the start
    of the next one. It covers loading images and moving them to the device.

    It keeps its own sums, since a metric of a distributed run would wait for all processes. It reads them from the
    device once per `REFRESH_S`, and never without a terminal.

    Args:
        console: Console to write to.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = progress_bar(console)
        self._unread: list[Tensor] = []
        self._images = 0
        self._loss = 0.0
        self._right = 0.0
        self._shown = 0.0
        self._since = 0.0
        self._ended = 0.0
        self._waited = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the bar, at the position of a resumed run."""
        self.on_train_epoch_start(trainer, pl_module)  # a resumed epoch doesn't start
        if not trainer.is_global_zero:
            return
        total = int(trainer.num_training_batches) * int(trainer.max_epochs or 1)
        done = int(trainer.num_training_batches) * trainer.current_epoch
        self.progress.start()
        self._train = self.progress.add_task("training", total=total, completed=done, text="")
        self._val = self.progress.add_task("validating", total=1, visible=False, text="")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the speed."""
        self._unread.clear()
        self._images, self._loss, self._right, self._waited = 0, 0.0, 0.0, 0.0
        self._since = self._ended = self._shown = time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Add the time waited for this batch."""
        self._waited += time.monotonic() - self._ended

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the bar."""
        self._ended = time.monotonic()
        if not trainer.is_global_zero or self.progress.disable:
            return
        count = len(batch.images)
        self._images += count
        of_all = outputs["loss"].detach() * (count * trainer.accumulate_grad_batches)
        self._unread.append(
            torch.stack([of_all, outputs["right"].to(of_all.dtype)] if "right" in outputs else [of_all])
        )
        done = int(trainer.num_training_batches) * trainer.current_epoch + batch_idx + 1
        self.progress.update(self._train, completed=done)
        if self._ended - self._shown >= REFRESH_S or batch_idx + 1 == trainer.num_training_batches:
            self._show(trainer)

    def _show(self, trainer: L.Trainer) -> None:
        """Read the sums, and show them."""
        loss, *right = torch.stack(self._unread).sum(0).tolist()
        self._unread.clear()
        self._loss += loss
        self._right += sum(right)
        self._shown = time.monotonic()
        spent = max(1e-9, self._shown - self._since)
        speed = self._images * trainer.world_size / spent
        top1 = f"  top-1 {self._right / self._images:.1%}" if right else ""
        self.progress.update(
            self._train,
            description=f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}",
            text=f"loss {self._loss / self._images:.3f}{top1}  {speed:.0f} images/s  data {self._waited / spent:.0%}",
        )

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Open the second bar."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            total = sum(int(n) for n in trainer.num_val_batches)
            self.progress.update(self._val, total=total, completed=0, visible=True)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Move the second bar."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self.progress.advance(self._val)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the second bar."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            self.progress.update(self._val, visible=False)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the bar, also after an error."""
        self.progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close the bar before the error is printed."""
        self.progress.stop()
