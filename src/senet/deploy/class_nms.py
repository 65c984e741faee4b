"""torchvision's non-maximum suppression by class, as one operator of an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final
from unittest import mock

import torch
from torch import Tensor
from torchvision.ops import boxes as box_ops

__all__ = ["class_nms"]

UNLIMITED = 2**31 - 1


@final
class _ClassNMS(torch.autograd.Function):
    """Indices of the kept boxes, the highest score first.

    torchvision moves the boxes of each class to a place of their own, so that one suppression serves all classes. Far
    from 0, float32 rounds them: with 80 classes and images of 1333 pixels by 0.004 pixels. ONNX suppresses by class.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float, count: int) -> Tensor:  # noqa: ARG004
        kept: Tensor = box_ops._batched_nms_vanilla(boxes, scores, classes, threshold)
        return kept

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, classes: Any, threshold: float, count: int) -> Any:
        """Build the nodes: NonMaxSuppression with one row of scores for each class, then a sort."""

        def constant(value: Any, dtype: torch.dtype = torch.int64) -> Any:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        first, every = constant([0]), constant([[number] for number in range(count)])
        own = g.op("Equal", every, g.op("Unsqueeze", classes, first))
        rows = g.op("Where", own, g.op("Unsqueeze", scores, first), constant(-1.0, torch.float32))
        found = g.op(
            "NonMaxSuppression",
            g.op("Unsqueeze", boxes, first),
            g.op("Unsqueeze", rows, first),
            constant([UNLIMITED]),
            constant([threshold], torch.float32),
            constant([-0.5], torch.float32),  # below any score, above the rows of other classes
        )
        kept = g.op("Gather", found, constant(2), axis_i=1)
        kept_scores = g.op("Gather", scores, kept)
        _, order = g.op("TopK", kept_scores, g.op("Shape", kept_scores), outputs=2)
        result = g.op("Gather", kept, order)
        result.setType(classes.type().with_sizes([None]))
        return result


@contextmanager
def class_nms(classes: int) -> Iterator[None]:
    """Let torchvision's detectors record one operator for the suppression of all classes, while traced for ONNX.

    Args:
        classes: Upper limit of the number of classes, and of the levels of a feature pyramid.
    """

    def traced(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
        kept: Tensor = _ClassNMS.apply(boxes, scores, idxs, iou_threshold, classes)
        return kept

    with mock.patch.object(box_ops, "batched_nms", traced):
        yield
