"""A classifier's training and validation step, for Lightning."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from senet.data import Batch, BrokenReport, Mixing, Normalise
from senet.data.randomness import mixed
from senet.errors import SenetError
from senet.training.optim import make_optimizer, make_schedule
from senet.training.recipe import Recipe

__all__ = ["ClassificationModule", "accuracies"]


def accuracies(num_classes: int) -> MetricCollection:
    """Top-1 and, with more than five classes, top-5 accuracy over all images."""
    metrics: dict[str, Metric | MetricCollection] = {"top1": MulticlassAccuracy(num_classes, average="micro")}
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, average="micro", top_k=5)
    return MetricCollection(metrics)


class ClassificationModule(L.LightningModule):
    """Cross entropy by a recipe; keeps the averaged weights; sums up each epoch's loss and accuracy.

    The sums are part of the state, so that an epoch that was interrupted reports the whole of it.

    Args:
        model: (N, C, H, W) -> logits (N, classes).
        recipe: What the training is.
        num_classes: Outputs.
        channels_last: Bring images into that memory format.
        broken: Is told of each broken image.
        normalise: From the training's uint8 images to what the network expects.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        num_classes: int,
        *,
        channels_last: bool = True,
        broken: BrokenReport | None = None,
        normalise: Normalise | None = None,
    ) -> None:
        super().__init__()
        self.normalise = normalise
        self.recipe = recipe
        self.broken = broken
        self.mixing: Mixing | None = None
        if recipe.mixup or recipe.cutmix:
            self.mixing = Mixing(num_classes, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=recipe.seed)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)
        self.average: AveragedModel | None = None
        if recipe.ema_decay:
            self.average = AveragedModel(self.model, multi_avg_fn=_rising_average(recipe.ema_decay), use_buffers=True)
            self.average.requires_grad_(False)
        self.train_loss, self.train_top1 = MeanMetric(), MulticlassAccuracy(num_classes, average="micro")
        self.val_loss, self.val_accuracies = MeanMetric(), accuracies(num_classes)
        for metric in (self.train_loss, self.train_top1):
            metric.persistent(True)

    @property
    def best_weights(self) -> nn.Module:
        """The network that is validated and kept: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.model

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser and its schedule, a step at a time."""
        optimizer = make_optimizer(self.model, self.recipe)
        schedule = make_schedule(optimizer, self.recipe, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalise where the network is."""
        return batch if self.normalise is None else batch._replace(images=self.normalise(batch.images))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let dropout and its like draw from (seed, step, process) alone, so that a resumed run repeats."""
        torch.manual_seed(mixed("step", self.recipe.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Loss of one batch, and how many first guesses are right, of this process's images."""
        self._report(batch)
        images, labels = batch.images, batch.labels
        if self.mixing is not None:
            images, labels = self.mixing(images, labels, batch.key)
        logits = self.model(images.contiguous(memory_format=self.memory_format)).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if not torch.isfinite(loss):
            raise SenetError(
                f"the loss became {loss.item()} at step {self.global_step} (learning rate "
                f"{self.trainer.optimizers[0].param_groups[0]['lr']:.4g}); try a smaller --lr or --clip-norm 1"
            )
        self.train_loss.update(loss.detach(), weight=len(images))
        self.train_top1.update(logits.detach(), batch.labels)
        return {"loss": loss, "right": (logits.detach().argmax(1) == batch.labels).sum()}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """One step of the optimiser, then of the averaged weights."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.model)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the validation's sums."""
        self._report(batch)
        images = batch.images.contiguous(memory_format=self.memory_format)
        logits, labels = self.best_weights(images).float()[batch.valid], batch.labels[batch.valid]
        if len(labels):
            self.val_loss.update(F.cross_entropy(logits, labels), weight=len(labels))
            self.val_accuracies.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Hand the validation's result to callbacks and loggers."""
        values = {"loss": self.val_loss.compute(), **self.val_accuracies.compute()}
        self.log_dict({f"val/{name}": value for name, value in values.items()})
        self.val_loss.reset()
        self.val_accuracies.reset()

    def on_train_epoch_end(self) -> None:
        """Hand the epoch's training loss and accuracy to callbacks and loggers."""
        self.log_dict({"train/loss": self.train_loss.compute(), "train/top1": self.train_top1.compute()})
        self.train_loss.reset()
        self.train_top1.reset()

    def on_train_end(self) -> None:
        """Let every process know of the broken images that the others have met."""
        if self.broken is not None and self.trainer.world_size > 1:
            everyone: list[dict[str, str]] = [{} for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(everyone, self.broken.reasons)
            for reasons in everyone:
                self.broken.reasons.update(reasons)

    def _report(self, batch: Batch) -> None:
        if self.broken is not None:
            self.broken.add(batch.broken)


def _rising_average(decay: float) -> Any:
    """An exponential average whose decay rises as (1 + n) / (10 + n) to `decay`, n counting the updates."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        number = int(count)
        get_ema_multi_avg_fn(min(decay, (1 + number) / (10 + number)))(averaged, current, count)

    return update
