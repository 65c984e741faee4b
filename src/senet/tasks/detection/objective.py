"""A detector's own losses, and COCO's mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision
from torchvision.ops import box_iou

from senet.data import DenseBatch
from senet.errors import SenetError
from senet.tasks.dense import by_shape
from senet.tasks.detection.ignored import OUT_OF_RANGE, as_truth, difficult_in
from senet.tasks.intervals import Interval, jackknife
from senet.tasks.means import Mean
from senet.tasks.task import Objective

__all__ = ["DetectionObjective", "detect"]


def detect(model: nn.Module, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Detect the objects of each image. The results are on the CPU.

    Args:
        model: One of torchvision's detectors, or a network with their interface, in evaluation mode.
        images: (C, H, W) in 0..1.

    Returns:
        For each image `boxes` (n, 4) in its pixels, `scores` (n,) descending, `labels` (n,) from 0.
    """
    found: list[dict[str, Tensor]] = [{} for _ in images]
    for numbers, alike in by_shape(images):
        for number, prediction in zip(numbers, model(alike), strict=True):
            boxes, scores = prediction["boxes"].float().cpu(), prediction["scores"].float().cpu()
            found[number] = {"boxes": boxes, "scores": scores, "labels": prediction["labels"].cpu() - 1}
    return found


SURE = 0.5
"""Smallest score of a box that counts in a single image."""
OVERLAP = 0.5


@final
class DetectionObjective(Objective):
    """The sum of a detector's losses, and mean average precision over IoU 0.5 to 0.95 and at 0.5.

    torchvision's detectors count classes from 1: 0 is the background.

    Args:
        classes: Names of the classes.
        alone: This process evaluates by itself.
    """

    def __init__(self, classes: Sequence[str], *, alone: bool = False) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.train_loss = Mean()
        self.alone = alone
        self._found: list[dict[str, Tensor]] = []
        self._truth: list[dict[str, Tensor]] = []

    @property
    def train_sums(self) -> tuple[Metric, ...]:
        """The loss."""
        return (self.train_loss,)

    def training_step(self, model: nn.Module, batch: DenseBatch) -> dict[str, Tensor]:
        """Return the loss of one batch, without crowds and difficult objects."""
        losses: Any = model(batch.images, [_learned(target) for target in batch.targets])
        if not isinstance(losses, Mapping):
            raise SenetError(
                f"{type(model).__name__} returns a {type(losses).__name__} in training; "
                "return a dictionary of losses from forward, as torchvision's detectors do"
            )
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        self.train_loss.update(loss.detach(), weight=len(batch.images))
        return {"loss": loss}

    def validation_step(self, model: nn.Module, batch: DenseBatch) -> None:
        """Collect one batch's boxes. Crowds and difficult objects are neither missed nor found."""
        kept = [number for number, valid in enumerate(batch.valid.tolist()) if valid]
        if not kept:
            return
        predictions = detect(model, [batch.images[number] for number in kept])
        targets = [{key: value.cpu() for key, value in batch.targets[number].items()} for number in kept]
        self._found += predictions
        self._truth += [as_truth(target, prediction) for target, prediction in zip(targets, predictions, strict=True)]

    def train_metrics(self) -> dict[str, Tensor]:
        """Return the loss."""
        values = {"loss": self.train_loss.compute()}
        self.train_loss.reset()
        return values

    def val_metrics(self) -> dict[str, Tensor]:
        """Return mean average precision. 0 without any box."""
        # Processes may have unequal numbers of images, so all boxes are gathered here: torchmetrics' own gathering
        # requires equal numbers.
        boxes, truth = _of_all(self._found, self.alone), _of_all(self._truth, self.alone)
        self._found, self._truth = [], []
        found = _precision(boxes, truth, class_metrics=self.alone)
        if self.alone:
            self.intervals = _intervals(boxes, truth)
            self.images = [image_errors(*pair) for pair in zip(boxes, truth, strict=True)]
            self.details = {"curves": _curves(found, self.classes)}
        if "map_per_class" in found and found["map_per_class"].ndim:
            pairs = zip(found["classes"].tolist(), found["map_per_class"].tolist(), strict=True)
            # Below 0: no box of that class counts.
            self.per_class = {self.classes[int(number)]: {"map": value} for number, value in pairs if value >= 0}
        device = self.train_loss.device
        return {name: found[key].clamp(min=0).to(device) for name, key in (("map", "map"), ("map50", "map_50"))}


Rows = Sequence[dict[str, Tensor]]


def _precision(boxes: Rows, truth: Rows, *, class_metrics: bool = False) -> dict[str, Any]:
    """Compute COCO's metrics under torchmetrics' names."""
    metric = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=class_metrics,
                                  extended_summary=class_metrics, sync_on_compute=False)  # fmt: skip
    metric.warn_on_many_detections = False
    metric.update(list(boxes), list(truth))
    figures: dict[str, Any] = metric.compute()
    return figures


def _curves(found: Mapping[str, Any], classes: Sequence[str]) -> dict[str, list[float]]:
    """Return the precision of each present class at IoU 0.5, for recalls of 0, 0.01, ..., 1. Its mean is AP50."""
    precision = torch.as_tensor(found["precision"])  # (IoU, recall, class, area, number of boxes), -1 without objects
    if precision.ndim != 5:
        return {}
    numbers = found["classes"].reshape(-1).tolist()
    curves = {classes[int(number)]: precision[0, :, row, 0, -1] for row, number in enumerate(numbers)}
    return {name: [round(value, 4) for value in curve.tolist()] for name, curve in curves.items() if (curve >= 0).all()}


def image_errors(prediction: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float | None]:
    """Count an image's found, missed and false objects at IoU 0.5, among the boxes with a score of 0.5 or more.

    The likeliest box takes the unfound object of its class with which it overlaps most. Crowds and difficult objects
    are neither missed nor found, as in COCO's metric.

    Args:
        prediction: `boxes` (n, 4), `scores` (n,) descending and `labels` (n,).
        truth: `boxes` (m, 4), `labels`, `iscrowd` and `area` (m,) of `as_truth`.

    Returns:
        `score`, the F1 of the boxes, None in an image without objects and boxes, and `found`, `missed` and `false`.
    """
    kept = prediction["scores"] >= SURE
    boxes, labels = prediction["boxes"][kept], prediction["labels"][kept]
    ignored = truth["iscrowd"].bool() | (truth["area"] >= OUT_OF_RANGE)
    free = ~ignored
    overlap = box_iou(boxes, truth["boxes"].to(boxes.dtype)) * (labels[:, None] == truth["labels"])
    found = false = 0
    for row in overlap:
        best = row * free
        if len(row) and best.max() >= OVERLAP:
            found, free[best.argmax()] = found + 1, False
        elif not (len(row) and (row * ignored).max() > 0):
            false += 1
    missed = int(free.sum())
    total = 2 * found + missed + false
    return {"score": 2 * found / total if total else None, "found": found, "missed": missed, "false": false}


def _intervals(boxes: Rows, truth: Rows) -> dict[str, Interval]:
    found = {}
    for name, key in (("map", "map"), ("map50", "map_50")):

        def figure(chosen: np.ndarray, key: str = key) -> float:
            return _precision([boxes[i] for i in chosen], [truth[i] for i in chosen])[key].clamp(min=0).item()

        interval = jackknife(len(truth), figure)
        if interval:
            found[name] = interval
    return found


def _of_all(rows: list[dict[str, Tensor]], alone: bool) -> list[dict[str, Tensor]]:
    """Gather the rows of all processes."""
    if alone or not dist.is_initialized():
        return rows
    parts: list[list[dict[str, Tensor]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _learned(target: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = ~(target["crowd"] | difficult_in(target))
    return {"boxes": target["boxes"][kept], "labels": target["labels"][kept] + 1}
