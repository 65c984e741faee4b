"""The detection task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet.data.joint_transform import DETECTION_CROPS, JointTransform, boxes_transform
from senet.data.transforms import as_image
from senet.errors import SenetError
from senet.preprocessing import Preprocessing
from senet.tasks.dense import DenseTask
from senet.tasks.detection.drawing import draw_boxes
from senet.tasks.detection.heads import HEADS
from senet.tasks.detection.objective import DetectionObjective, detect
from senet.tasks.task import Metric, Objective, RecipeView

__all__ = ["DetectionTask"]


@final
class DetectionTask(DenseTask):
    """Images (C, H, W) in 0..1 -> boxes, labels from 1 and scores. In training, torchvision's losses."""

    name = "detection"
    metrics = (Metric("map", "mAP"), Metric("map50", "mAP50"))
    heads = HEADS
    default_head = "faster_rcnn"
    default_size = (800, 1333)
    crops = DETECTION_CROPS
    unread = ("label_smoothing", "mixup", "cutmix")

    def transform(self, preprocessing: Preprocessing, recipe: RecipeView | None) -> JointTransform:
        """Transform boxes together with their image."""
        return boxes_transform(preprocessing, recipe.augmentation if recipe else None)

    def check_network(self, model: nn.Module, name: str, preprocessing: Preprocessing, classes: Sequence[str]) -> None:  # noqa: ARG002
        """Run one blank image.

        Raises:
            SenetError: The network rejects it, or its output differs from torchvision's detectors.
        """
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                output: Any = model(*self.example(preprocessing))
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            shape = (preprocessing.in_channels, *preprocessing.size)
            raise SenetError(
                f"{name} can't take a list of one image, {shape}, as torchvision's detectors do: {reason}"
            ) from error
        finally:
            model.train(training)
        keys = {"boxes", "labels", "scores"}
        if not (isinstance(output, list) and len(output) == 1 and isinstance(output[0], dict) and keys <= {*output[0]}):
            raise SenetError(f"{name} must return a list with boxes, labels and scores of each image in evaluation")

    def example(self, preprocessing: Preprocessing) -> list[Any]:
        """Return a list of one blank image."""
        image: Tensor = torch.zeros(preprocessing.in_channels, *preprocessing.size)
        return [[image]]

    def outputs(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        """Return the backbone's feature maps, then the detections. A network without good weights detects nothing."""
        body = getattr(model, "backbone", None)
        maps = body(images) if isinstance(body, nn.Module) else []
        found = model(list(images.sigmoid()))
        return [leaf for leaf in tree_leaves([maps, found]) if isinstance(leaf, Tensor)]

    def predictions(
        self,
        model: nn.Module,
        images: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
    ) -> list[dict[str, Tensor]]:
        """Return `boxes`, `scores` and `labels` from 0 for each image."""
        found = detect(model, images)
        for output, image, (height, width) in zip(found, images, sizes, strict=True):
            output["boxes"] = _in_image(output["boxes"], image, width, height)
        return found

    def draw(
        self, image: Image.Image, prediction: dict[str, Tensor], classes: Sequence[str], *, score_threshold: float = 0.5
    ) -> Image.Image:
        """Draw boxes with names and scores."""
        return draw_boxes(image, prediction, classes, score_threshold=score_threshold)

    def shown(self, pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
        """Return an image, whose pixels are in 0..1."""
        channels = preprocessing.in_channels
        return as_image(pixels, replace(preprocessing, mean=(0.0,) * channels, std=(1.0,) * channels, value_range=1.0))

    def as_prediction(self, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return boxes and labels, without scores."""
        return {"boxes": target["boxes"], "labels": target["labels"]}

    def objective(
        self,
        classes: Sequence[str],
        recipe: RecipeView | None = None,  # noqa: ARG002 - see `check_recipe`
        *,
        preprocessing: Preprocessing | None = None,  # noqa: ARG002 - the network itself normalises
        channels_last: bool = True,  # noqa: ARG002 - the network itself makes the batch
        alone: bool = False,
    ) -> Objective:
        """Return the detector's losses and mean average precision."""
        return DetectionObjective(classes, alone=alone)


def _in_image(boxes: Tensor, image: Tensor, width: int, height: int) -> Tensor:
    """Convert boxes to an image's own pixels, also if the network received it shortened and with a border."""
    scale = min(1.0, max(image.shape[1:]) / max(width, height))
    seen = [width, height] if scale == 1 else [max(1, round(edge * scale)) for edge in (width, height)]
    factors = torch.tensor([width / seen[0], height / seen[1]] * 2)
    return torch.minimum(boxes * factors, torch.tensor([width, height] * 2))
