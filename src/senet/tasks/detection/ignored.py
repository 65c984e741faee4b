"""Boxes that count neither as found nor as missed: COCO's crowds, VOC's difficult objects.

A detection on a crowd is measured by the fraction of its area inside the crowd, a detection on a difficult object by
its IoU. COCO's evaluation has only crowds. Difficult objects are passed to it as boxes whose area is out of range.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["OUT_OF_RANGE", "as_truth", "difficult_in"]

OUT_OF_RANGE = 1e12
"""An area in pixels outside COCO's ranges, the largest of which ends at 1e10."""

LEAST_OVERLAP = 0.5
"""Smallest IoU at which COCO's and VOC's evaluation count a box as found."""


def difficult_in(target: Mapping[str, Tensor]) -> Tensor:
    """(n,) bool: difficult boxes, none if the target doesn't mark them."""
    return target["difficult"] if "difficult" in target else torch.zeros_like(target["crowd"])


def as_truth(target: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert one image's ground truth for torchmetrics' mean average precision.

    A difficult box is repeated for each detection on it. torchmetrics matches each copy with a single detection, while
    VOC ignores all of them.

    Args:
        target: `boxes`, `labels`, `crowd`, and optionally `difficult`.
        found: `boxes` and `labels` of the detections.
    """
    boxes, labels, crowd = target["boxes"], target["labels"], target["crowd"]
    difficult = difficult_in(target)
    near = (box_iou(boxes, found["boxes"]) >= LEAST_OVERLAP - 1e-6) & (labels[:, None] == found["labels"])
    times = torch.where(difficult, near.sum(1).clamp(min=1), 1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    truth = {
        "boxes": boxes,
        "labels": labels,
        "iscrowd": crowd.int(),
        "area": area.masked_fill(difficult, OUT_OF_RANGE),
    }
    return {key: value.repeat_interleave(times, 0) for key, value in truth.items()}
