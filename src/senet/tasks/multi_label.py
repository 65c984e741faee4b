"""Multi-label classification: any number of labels for each image, also none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

from senet.data import Batch
from senet.errors import SenetError
from senet.preprocessing import Preprocessing
from senet.tasks.classification import ClassifierObjective, ClassifierTask
from senet.tasks.label_loss import LabelLoss
from senet.tasks.label_metrics import LABEL_METRICS, LabelScores
from senet.tasks.means import Mean
from senet.tasks.task import Objective, RecipeView

__all__ = ["MultiLabelTask"]


@final
class MultiLabelObjective(ClassifierObjective):
    """Average precision and F1 over labels, and the threshold of each label.

    Args:
        classes: Names of the labels.
        recipe: Recipe of the training, or None for evaluation.
        **options: `preprocessing` and `channels_last` of `ClassifierObjective`.
    """

    def __init__(self, classes: Sequence[str], recipe: RecipeView | None, **options: Any) -> None:
        super().__init__(classes, recipe, criterion=LabelLoss, **options)
        self.train_loss, self.val_loss, self.val_scores = Mean(), Mean(), LabelScores()

    @property
    def train_sums(self) -> tuple[torchmetrics.Metric, ...]:
        """The loss."""
        return (self.train_loss,)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of one batch."""
        loss, logits = self._loss(model, batch)
        self.train_loss.update(loss.detach(), weight=len(logits))
        return {"loss": loss}

    def validation_step(self, model: nn.Module, batch: Batch) -> None:
        """Add one batch to the validation sums."""
        logits = self._logits(model, self.normalise(batch.images))
        losses = F.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none").mean(1)
        self.val_loss.update(losses, weight=batch.valid)
        self.val_scores.add(logits, batch.labels, batch.valid)

    def train_metrics(self) -> dict[str, Tensor]:
        """Return the loss."""
        values = {"loss": self.train_loss.compute()}
        self.train_loss.reset()
        return values

    def val_metrics(self) -> dict[str, Tensor]:
        """Return the loss, mAP, and F1 at the thresholds that are best on these images."""
        values, self.thresholds = self.val_scores.values()
        values["loss"] = self.val_loss.compute()
        self.val_scores.reset()
        self.val_loss.reset()
        return values


@final
class MultiLabelTask(ClassifierTask):
    """Any number of labels for each image, each with a probability of its own."""

    name = "multi-label"
    metrics = LABEL_METRICS

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the sigmoid: each label has a probability of its own."""
        return logits.sigmoid()

    def check_recipe(self, recipe: RecipeView) -> None:
        """Raise a `SenetError` for an unknown metric, or for an order of images by their class."""
        self.metrics_for(recipe.metric)
        if recipe.sampler != "random":
            raise SenetError(
                f"sampler={recipe.sampler!r} needs one class for each image; for multi-label images use "
                "class_weights='balanced'"
            )

    def objective(
        self,
        classes: Sequence[str],
        recipe: RecipeView | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        channels_last: bool = True,
        alone: bool = False,  # noqa: ARG002 - `senet.inference.evaluate_labels` reports more than these sums
    ) -> Objective:
        """Return the loss and the metrics over labels. Class weights must be known: see `with_class_weights`."""
        return MultiLabelObjective(classes, recipe, preprocessing=preprocessing, channels_last=channels_last)
