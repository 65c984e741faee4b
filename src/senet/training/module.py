"""The training and validation step of a network, whatever its task, for Lightning."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import Metric

from senet.data.corrupt_images import CorruptImageReport
from senet.data.randomness import derive_seed
from senet.errors import CheckpointError
from senet.tasks.task import Objective
from senet.training.failures import diverged
from senet.training.optim import make_optimizer, make_schedule
from senet.training.recipe import Recipe

__all__ = ["TrainingModule"]

RECIPE = "recipe"
"""Key in a training state: the recipe."""

FREE = ("epochs", "expects")
"""What of its recipe a resumed run may change."""

LENGTH = ("total_steps", "_schedule_phases")
"""Names in `OneCycleLR`'s state that depend on the number of steps."""

SUMS = "train_sums"
"""Key in a training state: for each process, the states of its objective's `train_sums`."""


class TrainingModule(L.LightningModule):
    """A task's objective by a recipe; keeps the averaged weights.

    Args:
        model: What is trained.
        recipe: What the training is.
        objective: What the network shall do, and what it is judged by.
        channels_last: Bring weights into that memory format.
        broken: Is told of each broken image.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        objective: Objective,
        *,
        channels_last: bool = True,
        broken: CorruptImageReport | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.broken = broken
        self.objective = objective
        self._rescheduled = False
        self.model = model.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        self.average: AveragedModel | None = None
        if recipe.ema_decay:
            self.average = AveragedModel(self.model, multi_avg_fn=_rising_average(recipe.ema_decay), use_buffers=True)
            self.average.requires_grad_(False)

    @property
    def best_weights(self) -> nn.Module:
        """The network that is validated and kept: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.model

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser and its schedule, a step at a time."""
        optimizer = make_optimizer(self.model, self.recipe)
        schedule = make_schedule(optimizer, self.recipe, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add each process's sums over the epoch so far, so that a resumed epoch reports the whole of it.

        And the recipe, so that a resumed run knows whether its schedule has another length.
        """
        checkpoint[RECIPE] = self.recipe.to_dict()
        own = [{name: _on_cpu(value) for name, value in metric.metric_state.items()} for metric in self._sums]
        checkpoint[SUMS] = self._of_all(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take this process's sums; another number of processes leaves all of them to the first one.

        The learning rate follows the recipe's schedule, also where the run was begun with another number of epochs.

        Raises:
            CheckpointError: The state is another training's.
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
        there, here = checkpoint[RECIPE], self.recipe.to_dict()
        changed = [key for key in here if key not in FREE and there.get(key) != here[key]]
        if changed:
            key = changed[0]
            raise CheckpointError(
                f"the newest training state is of a run with {key} = {there.get(key)}, here it is {here[key]}: "
                "states or run.json were replaced or edited; bring them back, or start anew in another --out"
            )
        if self.trainer.world_size == 1:  # else tensors may be in pieces
            found, own = ({name: tensor.shape for name, tensor in state.items()}
                          for state in (checkpoint["state_dict"], self.state_dict()))  # fmt: skip
            if found != own:
                raise CheckpointError(
                    "the newest training state is of another network: states or run.json were replaced or edited; "
                    "bring them back, or start anew in another --out"
                )

    def on_train_start(self) -> None:
        """Set the rate that the recipe's schedule has at this step, where the run's length has changed."""
        if self._rescheduled:
            schedule = self.lr_schedulers()
            assert isinstance(schedule, LRScheduler)
            schedule.last_epoch -= 1
            schedule.step()
            schedule._step_count -= 1  # torch counts calls, for a warning; this one was none of the training's

    @property
    def _sums(self) -> tuple[Metric, ...]:
        return self.objective.train_sums

    def _of_all(self, own: Any) -> list[Any]:
        """One value of each process, in their order."""
        if self.trainer.world_size == 1:
            return [own]
        everyone: list[Any] = [None] * self.trainer.world_size
        torch.distributed.all_gather_object(everyone, own)
        return everyone

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let dropout and its like draw from (seed, step, process) alone, so that a resumed run repeats."""
        torch.manual_seed(derive_seed("step", self.recipe.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Loss of one batch, of this process's images."""
        self._report(batch)
        outputs = self.objective.training_step(self.model, batch)
        loss = outputs["loss"]
        lost = not torch.isfinite(loss)
        # Of several processes, all end at the same step: one that went on would wait for the others.
        if self.trainer.strategy.reduce_boolean_decision(lost, all=False):
            raise diverged(f"the loss became {loss.item() if lost else 'no number in another process'}", self.trainer)
        return outputs

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimiser, then of the averaged weights."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to the validation's sums."""
        self._report(batch)
        self.objective.validation_step(self.best_weights, batch)

    def on_validation_epoch_end(self) -> None:
        """Hand the validation's result to callbacks and loggers."""
        self.log_dict({f"val/{name}": value for name, value in self.objective.val_metrics().items()}, logger=False)

    def on_train_epoch_end(self) -> None:
        """Hand the epoch's training loss and its like to callbacks."""
        self.log_dict({f"train/{name}": value for name, value in self.objective.train_metrics().items()}, logger=False)

    def on_train_end(self) -> None:
        """Let every process know of the broken images that the others have met."""
        if self.broken is not None:
            for reasons in self._of_all(self.broken.reasons):
                self.broken.reasons.update(reasons)

    def _report(self, batch: Any) -> None:
        if self.broken is not None:
            self.broken.add(batch.corrupt)


def _on_cpu(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value.detach().cpu().clone()


def _rising_average(decay: float) -> Any:
    """An exponential average whose decay rises as (1 + n) / (10 + n) to `decay`, n counting the updates."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        number = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + number) / (10 + number)))(averaged, current, count)

    return update
