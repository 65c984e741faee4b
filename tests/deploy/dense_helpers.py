"""Small detectors and segmenters with random weights, as checkpoints give them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from senet.deploy.bench import randomise
from senet.preprocessing import Preprocessing
from senet.tasks import task_named
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel

CLASSES = ("ash", "birch", "cedar")
IMAGES = Preprocessing(size=(48, 64), crop_fraction=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


TINY = {"depths": (1, 1, 1, 1), "group_width": 8}


def dense(
    task: str, head: str, model: str = "se_resnet18", images: Preprocessing = IMAGES, **options: Any
) -> LoadedModel:
    """A network in which each gate, norm and bias matters."""
    torch.manual_seed(5)
    kind = task_named(task)
    made = {} if ":" in model else TINY
    settings = {} if ":" in model else {"kind": head, "channels": 32} | options
    network = livened(kind.build(model, num_classes=len(CLASSES), preprocessing=images, options=made, head=settings))
    if ":" in model:
        settle(network.backbone)
    metadata = CheckpointMetadata(model=model, classes=CLASSES, preprocessing=images, task=task,
                                  training={"category_ids": [7, 3, 11]})  # fmt: skip
    return LoadedModel(network.eval(), CLASSES, images, metadata)


def livened(network: nn.Module) -> nn.Module:
    """Draw norms, biases, statistics and gates at random, so that gates differ between channels and images."""
    randomise(network)
    for name, parameter in network.named_parameters():
        if ".fc" in name and parameter.ndim == 2:
            with torch.no_grad():
                parameter.mul_(4)
    return network


def settle(backbone: nn.Module) -> None:
    """Take the norms' statistics from noise. With random ones, a deep network's output hardly depends on the position.

    A detector then finds many boxes with equal scores, and which of them it keeps is left to chance.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        backbone.train()(torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(3)))


def without_boxes(loaded: LoadedModel) -> LoadedModel:
    """The same detector with a threshold that no score reaches."""
    part = getattr(loaded.model, "roi_heads", loaded.model)
    part.score_thresh = 2.0
    return loaded


def pictures(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def pairs_off(a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[float, float]:
    """Match the boxes of one image one to one. Largest differences in pixels and of a score."""
    assert len(a["boxes"]) == len(b["boxes"]) > 0
    left = list(range(len(b["boxes"])))
    pixels = scores = 0.0
    for box, label, score in zip(a["boxes"], a["labels"], a["scores"], strict=True):
        away = [float((box - b["boxes"][n]).abs().max()) + 1e6 * float(label != b["labels"][n]) for n in left]
        nearest = min(range(len(left)), key=away.__getitem__)
        pixels = max(pixels, away[nearest])
        scores = max(scores, abs(float(score - b["scores"][left.pop(nearest)])))
    return pixels, scores
