"""The training and validation step of a network, whatever its task, for Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from senet.data.corrupt_images import CorruptImageReport
from senet.data.randomness import derive_seed
from senet.errors import CheckpointError
from senet.tasks.task import Objective
from senet.training.averaging import AveragedWeights
from senet.training.failures import StepLoss
from senet.training.freezing import Freezing
from senet.training.optim import decayed_parameters, make_optimizer, make_schedule
from senet.training.recipe import Recipe

__all__ = ["TrainingModule"]

RECIPE = "recipe"
"""Key of the recipe in a training state."""

TEACHER = "teacher"
"""Key of the teacher's record in a training state."""

FREE = ("epochs", "expects")
"""Fields of the recipe that a resumed run may change."""

LENGTH = ("total_steps", "_schedule_phases")
"""Names in `OneCycleLR`'s state that depend on the number of steps."""

SUMS = "train_sums"
"""Key in a training state of each process's `train_sums` of the objective."""


class TrainingModule(L.LightningModule):
    """Trains a network for a task's objective by a recipe, with averaged weights where the recipe asks for them.

    Args:
        model: Network to train.
        recipe: Hyperparameters.
        objective: Loss and metrics of the task.
        channels_last: Whether to convert the weights to this memory format.
        corrupt_images: Report of corrupt images.
        freezing: Frozen part of the network, None for none.
        scales: Parameter to the factor of its learning rate.
        teacher: Record of the teacher, part of a training state.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        objective: Objective,
        *,
        channels_last: bool = True,
        corrupt_images: CorruptImageReport | None = None,
        freezing: Freezing | None = None,
        scales: Mapping[str, float] | None = None,
        teacher: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.corrupt_images = corrupt_images
        self.objective = objective
        self._rescheduled = False
        self._freezing = freezing
        self._scales = scales
        self._teacher = dict(teacher or {})
        self._decayed = decayed_parameters(model)
        self.model = model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.average = AveragedWeights(self.model, recipe.ema_decay) if recipe.ema_decay else None
        self._losses: list[tuple[int, float, Tensor]] = []

    @property
    def best_weights(self) -> nn.Module:
        """The validated and saved network: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.model

    def configure_optimizers(self) -> Any:
        """Return the recipe's optimizer and its per-step schedule."""
        # Unscaling in front of the optimizer waits for the device. Clipping needs it, and so do several parts of a
        # gradient, which are checked together.
        scaled = self.trainer.precision == "16-mixed"
        fused = scaled and not self.recipe.clip_grad_norm and not self._is_sharded()
        optimizer = make_optimizer(self.model, self.recipe, self._decayed, scales=self._scales, fused=fused or None)
        schedule = make_schedule(optimizer, self.recipe, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add each process's sums over the epoch so far, so that a resumed epoch reports all of it.

        The recipe is added too, so that a resumed run detects a changed number of epochs.
        """
        checkpoint[RECIPE] = self.recipe.to_dict()
        if self._teacher:
            checkpoint[TEACHER] = self._teacher
        own = [{name: _on_cpu(value) for name, value in metric.metric_state.items()} for metric in self._sums]
        checkpoint[SUMS] = self._of_all(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore this process's sums. With another number of processes, the first one gets all of them.

        The learning rate follows the recipe's schedule, also after a change of the number of epochs.

        Raises:
            CheckpointError: The state belongs to another training.
        """
        self._refuse_others(checkpoint)
        self._rescheduled = checkpoint[RECIPE]["epochs"] != self.recipe.epochs
        for schedule in checkpoint["lr_schedulers"]:
            for name in LENGTH:
                schedule.pop(name, None)
        everyone = checkpoint[SUMS]
        alike = len(everyone) == self.trainer.world_size
        mine = everyone[self.global_rank : self.global_rank + 1] if alike else everyone if not self.global_rank else []
        for metrics in mine:
            for metric, state in zip(self._sums, metrics, strict=True):
                metric.merge_state({name: value.to(metric.device) for name, value in state.items()})

    def _refuse_others(self, checkpoint: dict[str, Any]) -> None:
        there, here = Recipe().to_dict() | checkpoint[RECIPE], self.recipe.to_dict()
        there["augmentation"] = Recipe().to_dict()["augmentation"] | there["augmentation"]  # of earlier versions
        there[TEACHER], here[TEACHER] = checkpoint.get(TEACHER, {}), self._teacher
        changed = [key for key in here if key not in FREE and there.get(key) != here[key]]
        if changed:
            key = changed[0]
            raise CheckpointError(
                f"the newest training state is from a run with {key}={there.get(key)}, not {here[key]}: states or "
                "run.json were replaced or edited; restore them, or start a new run in another --out"
            )
        if self.trainer.world_size == 1:  # else tensors may be sharded
            found, own = ({name: tensor.shape for name, tensor in state.items()}
                          for state in (checkpoint["state_dict"], self.state_dict()))  # fmt: skip
            if found != own:
                raise CheckpointError(
                    "the newest training state is from another network: states or run.json were replaced or edited; "
                    "restore them, or start a new run in another --out"
                )

    def on_train_start(self) -> None:
        """Freeze the part of this epoch, which may have begun before.

        Where the number of epochs has changed, set the learning rate of the recipe's schedule at this step.
        """
        self._freeze()
        if self._rescheduled:
            schedule = self.lr_schedulers()
            assert isinstance(schedule, LRScheduler)
            schedule.last_epoch -= 1
            schedule.step()
            schedule._step_count -= 1  # torch counts the calls for a warning, and this is no training step

    def on_train_epoch_start(self) -> None:
        """Freeze the part of this epoch."""
        self._freeze()

    def _freeze(self) -> None:
        if self._freezing is not None:
            self._freezing.apply(self.current_epoch)

    def _is_sharded(self) -> bool:
        return isinstance(self.trainer.strategy.model, FullyShardedDataParallel)

    @property
    def _sums(self) -> tuple[Metric, ...]:
        return self.objective.train_sums

    def _of_all(self, own: Any) -> list[Any]:
        """Gather one value from each process, in their order."""
        if self.trainer.world_size == 1:
            return [own]
        everyone: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(everyone, own)
        return everyone

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed random layers (dropout) from (seed, step, process), so that a resumed run repeats."""
        torch.manual_seed(derive_seed("step", self.recipe.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of one batch of this process."""
        self._report(batch)
        outputs = self.objective.training_step(self.model, batch)
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._losses.append((self.trainer.global_step, rate, outputs["loss"].detach()))
        return outputs

    def read_losses(self) -> list[StepLoss]:
        """Return the losses of this process's batches since the last call, which waits for the device."""
        losses, self._losses = self._losses, []
        values = torch.stack([loss for *_, loss in losses]).tolist() if losses else []
        return [StepLoss(step, rate, value) for (step, rate, _), value in zip(losses, values, strict=True)]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimizer, then update the averaged weights."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.model)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm of the whole gradient, also where each process has a part of it."""
        if gradient_clip_val and self._is_sharded():
            self.trainer.strategy.model.clip_grad_norm_(gradient_clip_val)  # type: ignore[union-attr, operator]
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to the validation metrics."""
        self._report(batch)
        self.objective.validation_step(self.best_weights, batch)

    def on_validation_epoch_end(self) -> None:
        """Pass the validation metrics to callbacks and loggers."""
        self.log_dict({f"val/{name}": value for name, value in self.objective.val_metrics().items()}, logger=False)

    def on_train_epoch_end(self) -> None:
        """Pass the epoch's training metrics to callbacks."""
        self.log_dict({f"train/{name}": value for name, value in self.objective.train_metrics().items()}, logger=False)

    def on_train_end(self) -> None:
        """Merge the reports of corrupt images of all processes."""
        if self.corrupt_images is not None:
            for reasons in self._of_all(self.corrupt_images.reasons):
                self.corrupt_images.reasons.update(reasons)

    def _report(self, batch: Any) -> None:
        if self.corrupt_images is not None:
            self.corrupt_images.add(batch.corrupt)


def _on_cpu(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value.detach().cpu().clone()
