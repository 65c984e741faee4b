"""Small networks with random weights, and what tests of exported files share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import senet
from senet.deploy.bench import randomise
from senet.preprocessing import Preprocessing
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel

SMALL = Preprocessing(size=(40, 56), crop_fraction=1.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
CLASSES = ("ash", "birch", "cedar", "date palm", 'elm "old"')


def network(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    return randomise(senet.create_model(name, num_classes=len(CLASSES), **options)).eval()


def loaded(name: str = "se_resnet50_v1_5", images: Preprocessing = SMALL, **options: Any) -> LoadedModel:
    """A bottleneck network of two blocks, as a checkpoint would give it."""
    options = options or {"depths": (1, 1)}
    model = network(name, **options)
    return LoadedModel(model, CLASSES, images, CheckpointMetadata(model=name, classes=CLASSES, preprocessing=images))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest logit."""
    assert found.shape == expected.shape
    assert expected.abs().max() > 0.01
    return float((found - expected).abs().max() / expected.abs().max())
