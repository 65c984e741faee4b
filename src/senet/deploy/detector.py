"""Trace torchvision's detectors, and networks with their interface, to ONNX.

`torch.export` can't trace them, since the numbers of proposals and detections depend on the image. torchvision supports
`torch.onnx`'s exporter by tracing.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import transform as detection_transform
from torchvision.ops import boxes as box_ops

from senet.deploy.class_nms import class_nms
from senet.deploy.detector_size import resized_size
from senet.deploy.export_metadata import INPUT, ExportMetadata
from senet.deploy.extras import need
from senet.deploy.quiet import errors_only
from senet.deploy.tracing import reason
from senet.errors import SenetError

__all__ = ["OneImage", "score_threshold", "traced_detector"]

OPSET = 18
"""The traced graph's version of ONNX's operators."""

MOST_LEVELS = 8
"""More levels than any feature pyramid has."""


@final
class OneImage(nn.Module):
    """A detector for one image.

    Args:
        detector: A list of images (C, H, W) in 0..1 -> a list of dictionaries with `boxes`, `scores` and `labels` from
            1, as torchvision's detectors.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, C, H, W) in 0..1 -> boxes (n, 4), scores (n,), labels (n,) from 0."""
        found = self.detector([x[0]])[0]
        return found["boxes"], found["scores"], found["labels"] - 1


def score_threshold(detector: nn.Module) -> float | None:
    """Return the smallest score of a detection in torchvision's detectors; None for others."""
    found = (getattr(part, "score_thresh", None) for part in (getattr(detector, "roi_heads", None), detector))
    return next((float(value) for value in found if isinstance(value, int | float)), None)


def traced_detector(detector: nn.Module, metadata: ExportMetadata) -> Any:
    """Trace a detector to an `onnx.ModelProto` with non-maximum suppression inside, for one image of any size.

    Args:
        detector: A detector in evaluation mode on the CPU.
        metadata: Its metadata. A size fixes that of the image.

    Raises:
        SenetError: The detector can't be traced.
    """
    onnx = need("onnx", f"--format {metadata.task}")
    images = metadata.preprocessing
    example = torch.rand(
        1, images.in_channels, *(metadata.size or images.size), generator=torch.Generator().manual_seed(0)
    )
    axes = {name: {0: "detections"} for name in metadata.outputs}
    if metadata.size is None:
        axes[INPUT] = {2: "height", 3: "width"}
    target = io.BytesIO()
    try:
        with torch.no_grad(), _traceable(len(metadata.classes) + 1):
            torch.onnx.export(
                OneImage(detector).eval(),
                (example,),
                target,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[*metadata.outputs],
                dynamic_axes=axes,
            )
    except Exception as error:  # of many types, from the detector's code and the exporter
        raise SenetError(f"this detector can't be exported: {reason(error)}") from error
    return onnx.load_from_string(target.getvalue())


@contextmanager
def _traceable(classes: int) -> Iterator[None]:
    """Replace the parts of torchvision whose trace differs from the network, without the tracer's warnings."""
    with (
        class_nms(max(classes, MOST_LEVELS)),
        mock.patch.object(detection_transform, "_resize_image_and_masks", _resized),
        mock.patch.object(box_ops, "clip_boxes_to_image", _clipped),
        errors_only("torch.onnx"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes (n, 4) to an image. torchvision's trace ends in a reshape, which fails on an image without boxes."""
    height, width = (torch.as_tensor(edge).to(boxes.dtype) for edge in size)
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]))


def _resized(
    image: Tensor,
    self_min_size: int,
    self_max_size: int,
    target: dict[str, Tensor] | None = None,
    fixed_size: tuple[int, int] | None = None,
) -> tuple[Tensor, dict[str, Tensor] | None]:
    """Resize to the size of the network itself. torchvision's own trace computes it in float32."""
    if fixed_size is not None:
        size: Any = (fixed_size[1], fixed_size[0])
    else:
        size = tuple(resized_size(torch._shape_as_tensor(image)[-2:], self_min_size, self_max_size))
    return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0], target
