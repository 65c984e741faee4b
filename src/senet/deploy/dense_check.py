"""Compare an exported detector or segmenter with its network, on real images and on noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from senet.deploy.export_metadata import ExportMetadata
from senet.deploy.parity import BoxLimits, Parity, compare_boxes, compare_logits
from senet.zoo import LoadedModel

if TYPE_CHECKING:
    from senet.data import Source

__all__ = ["compare_dense", "images_of", "measure"]

BOX_LIMITS: Final[Mapping[str, BoxLimits]] = {
    "32": BoxLimits(score=1e-4, edge=2e-5, unmatched=0.002),
    "fp16": BoxLimits(score=0.05, edge=0.01, unmatched=0.25),
}
"""Precision to the largest differences of a detector. 2e-5 of an edge of 640 pixels are 0.013 pixels.

On real images boxes differ by less than 0.001 pixels. On noise, group norms amplify the rounding of folded norms. In
fp16 another one of two overlapping boxes of nearly equal scores may be kept.
"""


def images_of(loaded: LoadedModel, source: Source | None, count: int, size: tuple[int, int] | None) -> list[Tensor]:
    """Return transformed real images (C, H, W), and noise.

    A blank image is no test: group norms would amplify the rounding of its constant feature maps.

    Args:
        loaded: The network.
        source: Images with annotations; None: two photographs.
        count: Number of real images.
        size: The file's only height and width.
    """
    from senet.data import sample_images, subsample
    from senet.tasks import task_named

    images = loaded.preprocessing
    detects = loaded.metadata.task == "detection"
    task: Any = task_named(loaded.metadata.task)
    if source is not None:
        chosen = subsample(source, count)
        transform = task.transform(images, None)
        found = [transform.alone(chosen[number][0]) for number in range(len(chosen))]
    elif images.channel_order == "other":
        found = [_spread(photograph, loaded, detects) for photograph in sample_images(count)]
    else:
        transform = task.transform(images, None)
        found = [transform.alone(photograph) for photograph in sample_images(count)]
    noise = torch.rand(found[0].shape, generator=torch.Generator().manual_seed(0))
    found.append(noise if detects else (noise - 0.5) * 4)
    return found if size is None else [_resized(image, size) for image in found]


def _spread(photograph: Any, loaded: LoadedModel, detects: bool) -> Tensor:
    """Repeat a photograph's three channels in turn for other numbers of them."""
    images = loaded.preprocessing
    rgb = pil_to_tensor(photograph).float() / 255
    pixels = _resized(rgb[[c % 3 for c in range(images.in_channels)]], images.size)
    if detects:
        return pixels
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (images.mean, images.std))
    return (pixels * images.value_range - mean) / std


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return image if image.shape[1:] == size else F.interpolate(image[None], size=size, mode="bilinear")[0]


def compare_dense(
    loaded: LoadedModel, made: LoadedModel, images: Sequence[Tensor], metadata: ExportMetadata, tolerance: float | None
) -> Parity:
    """Compare the outputs of a file and its network, image by image.

    Args:
        loaded: The network.
        made: The file.
        images: (C, H, W) each.
        metadata: Metadata of the file.
        tolerance: Largest difference of a logit relative to the largest one, or of a score and, relative to its image's
            longest edge, of a box; None: by the precision.
    """
    from senet.deploy.exporting import TOLERANCES

    with torch.inference_mode():
        if metadata.task == "segmentation":
            expected, found = ([model(image[None]) for image in images] for model in (loaded.model, made.model))
            return compare_logits(expected, found, TOLERANCES[metadata.precision] if tolerance is None else tolerance)
        expected, found = ([model([image])[0] for image in images] for model in (loaded.model, made.model))
    limits = BOX_LIMITS[metadata.precision]
    if tolerance is not None:
        limits = replace(limits, score=tolerance, edge=tolerance)
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    return compare_boxes(expected, found, sizes, limits, least=metadata.score_threshold or 0.0)


def measure(loaded: LoadedModel, source: Source, classes: Sequence[str], progress: Any) -> float:
    """Return the task's first metric on annotated images."""
    from senet.inference.task_evaluation import evaluate_task, metric_of
    from senet.tasks import MULTI_LABEL, task_named

    key = task_named(loaded.metadata.task).metrics[0].key
    where = {"device": torch.device("cpu")} if loaded.metadata.task == MULTI_LABEL else {}
    return metric_of(evaluate_task(loaded, source, classes, progress=progress, **where), key)
