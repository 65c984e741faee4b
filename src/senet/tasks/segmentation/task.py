"""The segmentation task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from PIL import Image
from torch import Tensor, nn

from senet.data.joint_transform import SEGMENTATION_CROPS, JointTransform, masks_transform
from senet.data.masks import IGNORE_INDEX
from senet.errors import SenetError
from senet.preprocessing import Preprocessing
from senet.tasks.classification import run_blank
from senet.tasks.dense import DenseTask
from senet.tasks.logits import logits_of
from senet.tasks.segmentation.drawing import draw_mask
from senet.tasks.segmentation.heads import HEADS
from senet.tasks.segmentation.objective import SegmentationObjective, segment
from senet.tasks.task import Metric, Objective, RecipeView

__all__ = ["SegmentationTask"]


@final
class SegmentationTask(DenseTask):
    """(N, C, H, W) -> logits (N, classes, H, W), alone or among other outputs: see `senet.tasks.logits`."""

    name = "segmentation"
    metrics = (Metric("miou", "mIoU"), Metric("dice", "Dice"))
    heads = HEADS
    default_head = "unet"
    default_size = (512, 512)
    crops = SEGMENTATION_CROPS
    unread = ("mixup", "cutmix")

    def transform(self, preprocessing: Preprocessing, recipe: RecipeView | None) -> JointTransform:
        """Transform masks together with their image."""
        return masks_transform(preprocessing, recipe.augmentation if recipe else None)

    def groups_by_shape(self, recipe: RecipeView) -> bool:  # noqa: ARG002
        """Return False, since all crops have one size."""
        return False

    def check_network(self, model: nn.Module, name: str, preprocessing: Preprocessing, classes: Sequence[str]) -> None:
        """Run one blank image.

        Raises:
            SenetError: The network rejects it, or doesn't return one logit for each class and pixel.
        """
        wanted = (1, len(classes), *preprocessing.size)
        shape = tuple(logits_of(run_blank(model, name, preprocessing), len(classes), name=name, dims=4).shape)
        if shape != wanted:
            raise SenetError(f"{name} returns {shape} for one image instead of one logit a class and pixel, {wanted}")

    def predictions(self, model: nn.Module, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return (H, W) uint8 class numbers for each image."""
        return segment(model, images, sizes)

    def draw(
        self,
        image: Image.Image,
        prediction: Tensor,
        classes: Sequence[str],
        *,
        score_threshold: float = 0.5,  # noqa: ARG002 - each pixel has one class
    ) -> Image.Image:
        """Draw the classes in colours over the image."""
        return draw_mask(image, prediction.numpy(), len(classes))

    def as_prediction(self, target: Mapping[str, Tensor]) -> Tensor:
        """Return the mask. Pixels without a class are drawn as class 0."""
        mask = target["mask"]
        return torch.where(mask == IGNORE_INDEX, 0, mask).to(torch.uint8)

    def objective(
        self,
        classes: Sequence[str],
        recipe: RecipeView | None = None,
        *,
        preprocessing: Preprocessing | None = None,  # noqa: ARG002 - its images are normalised one by one
        channels_last: bool = True,
        alone: bool = False,
    ) -> Objective:
        """Return cross entropy and overlap metrics."""
        smoothing = recipe.label_smoothing if recipe else 0.0
        return SegmentationObjective(classes, label_smoothing=smoothing, channels_last=channels_last, alone=alone)
