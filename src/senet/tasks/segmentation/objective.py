"""Cross entropy of pixels, and IoU and Dice of predicted and true masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from senet.data import DenseBatch
from senet.data.masks import IGNORE_INDEX
from senet.nn.precision import in_float64
from senet.tasks.dense import by_shape
from senet.tasks.intervals import bootstrap
from senet.tasks.logits import logits_of
from senet.tasks.means import Mean
from senet.tasks.task import Objective

__all__ = ["SegmentationObjective", "overlaps", "segment"]


def segment(model: nn.Module, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Predict the likeliest class of each pixel. The results are on the CPU.

    Args:
        model: (N, C, H, W) -> logits, in evaluation mode.
        images: (C, H, W) each, normalised.
        sizes: Height and width of each requested mask.

    Returns:
        (H, W) uint8 each.
    """
    found: list[Tensor] = [torch.empty(0)] * len(images)
    for numbers, alike in by_shape(images):
        logits = logits_of(model(torch.stack(alike)), None, name=type(model).__name__, dims=4).float()
        for number, one in zip(numbers, logits, strict=True):
            whole = F.interpolate(one[None], size=sizes[number], mode="bilinear", align_corners=False)
            found[number] = whole[0].argmax(0).to(torch.uint8).cpu()
    return found


def overlaps(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and Dice of each class over all pixels, NaN for a class that is neither present nor predicted.

    Args:
        confusion: (true class, predicted class) counts of pixels.
    """
    confusion = in_float64(confusion)
    right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return right / (true + predicted - right), 2 * right / (true + predicted)


def _pixels(predicted: np.ndarray, true: np.ndarray, classes: int) -> np.ndarray:
    """(3, classes) pixels of one image: correctly predicted, true, and predicted of each class."""
    kept = true != IGNORE_INDEX
    predicted, true = predicted[kept], true[kept]
    return np.stack([np.bincount(numbers, minlength=classes) for numbers in (true[predicted == true], true, predicted)])


def _mean_iou(counts: np.ndarray) -> np.ndarray:
    """(R,) mean IoU from (R, 3, classes) pixels."""
    right, true, predicted = np.moveaxis(counts, 1, 0)
    return _mean_share(right, true + predicted - right)


def _mean_dice(counts: np.ndarray) -> np.ndarray:
    """(R,) mean Dice from (R, 3, classes) pixels."""
    right, true, predicted = np.moveaxis(counts, 1, 0)
    return _mean_share(2 * right, true + predicted)


def _mean_share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return the mean over the classes that are present or predicted, NaN without any."""
    there = of > 0
    shares = np.divide(part, of, out=np.zeros_like(part), where=there)
    return shares.sum(-1) / np.where(there.any(-1), there.sum(-1), np.nan)


@final
class SegmentationObjective(Objective):
    """Cross entropy over the labelled pixels, and mean IoU and mean Dice over the classes.

    Args:
        classes: Names of the classes.
        label_smoothing: Of the cross entropy.
        channels_last: Whether images are converted to channels_last.
        alone: This process evaluates by itself.
    """

    def __init__(
        self, classes: Sequence[str], *, label_smoothing: float = 0.0, channels_last: bool = True, alone: bool = False
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.label_smoothing = label_smoothing
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.train_loss = Mean()
        self.alone = alone
        self._counts: list[np.ndarray] = []
        self.confusion = MulticlassConfusionMatrix(len(classes), ignore_index=IGNORE_INDEX, sync_on_compute=not alone)

    @property
    def train_sums(self) -> tuple[Metric, ...]:
        """The loss."""
        return (self.train_loss,)

    def training_step(self, model: nn.Module, batch: DenseBatch) -> dict[str, Tensor]:
        """Return the loss of one batch of crops."""
        images = torch.stack(batch.images).contiguous(memory_format=self.memory_format)
        masks = torch.stack([target["mask"] for target in batch.targets]).long()
        output = model(images)
        logits = logits_of(output, len(self.classes), name=type(model).__name__, dims=4)
        loss = self._loss(logits.float(), masks)
        if isinstance(output, Mapping) and "aux" in output:  # torchvision's auxiliary output
            loss = loss + 0.5 * self._loss(output["aux"].float(), masks)
        self.train_loss.update(loss.detach(), weight=len(images))
        return {"loss": loss}

    def _loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        total = F.cross_entropy(
            logits, masks, ignore_index=IGNORE_INDEX, label_smoothing=self.label_smoothing, reduction="sum"
        )  # fmt: skip
        return total / (masks != IGNORE_INDEX).sum().clamp(
            min=1
        )  # a batch without labelled pixels has a loss of 0, not NaN

    def validation_step(self, model: nn.Module, batch: DenseBatch) -> None:
        """Count one batch's pixels, each image at the size of its mask."""
        kept = [number for number, valid in enumerate(batch.valid.tolist()) if valid]
        masks = [batch.targets[number]["mask"] for number in kept]
        sizes = [(mask.shape[0], mask.shape[1]) for mask in masks]
        predictions = segment(model, [batch.images[number] for number in kept], sizes)
        for prediction, mask in zip(predictions, masks, strict=True):
            self.confusion.update(prediction.to(mask.device).long().flatten(), mask.long().flatten())
            if self.alone:
                self._counts.append(_pixels(prediction.numpy(), mask.cpu().numpy(), len(self.classes)))

    def train_metrics(self) -> dict[str, Tensor]:
        """Return the loss."""
        values = {"loss": self.train_loss.compute()}
        self.train_loss.reset()
        return values

    def val_metrics(self) -> dict[str, Tensor]:
        """Return mean IoU and Dice over the classes that are present or predicted."""
        matrix = self.confusion.compute()
        iou, dice = overlaps(matrix)
        self.confusion.reset()
        if self._counts:
            counts, self._counts = np.stack(self._counts), []
            found = {"miou": bootstrap(counts, _mean_iou), "dice": bootstrap(counts, _mean_dice)}
            self.intervals = {key: interval for key, interval in found.items() if interval}
            self.images = [
                {"score": None if np.isnan(score) else float(score)} for score in _mean_iou(counts.astype(np.float64))
            ]
            self.details = {"confusion": matrix.cpu().tolist()}
        self.per_class = {
            name: {"iou": i, "dice": d} for name, i, d in zip(self.classes, iou.tolist(), dice.tolist(), strict=True)
        }
        device = self.confusion.device
        return {"miou": iou.nanmean().float().to(device), "dice": dice.nanmean().float().to(device)}
