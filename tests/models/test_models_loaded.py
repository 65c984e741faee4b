"""Trained CIFAR-10 networks of a public repository classify real pictures: the option-A shortcut is right.

They reach 91.8, 92.8 and 93.6 % on the original pictures. Those here went through JPEG (quality 75), which a
32x32 picture does not survive unharmed: about 10 points are lost.
"""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import senet
from senet.models import ConvNet
from senet.models.resnet_cifar import PadShortcut

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
PICTURES = SHARED / "data" / "cifar10.tar.gz"
A_CLASS = 50


def _needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} is not in {path.parent}")
    return path


@pytest.fixture(scope="module")
def test_images() -> tuple[Tensor, Tensor]:
    """The first 50 test images of each class, normalised as those networks were trained, and their classes."""
    members: dict[str, list[tuple[str, bytes]]] = {}
    with tarfile.open(_needed(PICTURES)) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and parts[-3:-2] == ("test",) and len(members.setdefault(parts[-2], [])) < A_CLASS:
                members[parts[-2]].append((member.name, archive.extractfile(member).read()))
            if sum(map(len, members.values())) == 10 * A_CLASS:
                break  # the rest takes seconds to unpack
    pixels = [np.asarray(Image.open(BytesIO(data)).convert("RGB")) for c in sorted(members) for _, data in members[c]]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    labels = torch.arange(10).repeat_interleave(A_CLASS)
    assert images.shape == (500, 3, 32, 32)
    return (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), labels


@pytest.mark.parametrize("depth", [20, *(pytest.param(d, marks=pytest.mark.slow) for d in (32, 56))])
def test_a_trained_cifar_resnet_still_knows_its_classes(depth: int, test_images: tuple[Tensor, Tensor]) -> None:
    [file] = sorted((SHARED / "weights").glob(f"cifar10_resnet{depth}-*.th")) or [
        _needed(SHARED / "weights" / f"cifar10_resnet{depth}")
    ]
    model = senet.create_model(f"cifar_resnet{depth}").eval()
    assert senet.load_weights(model, file).layout == "cifar"
    assert _accuracy(model, test_images) >= 0.78
    for module in model.modules():
        if isinstance(module, PadShortcut):
            module.pad = (0, sum(module.pad))
    assert _accuracy(model, test_images) < 0.25, "where the zeros stand makes no difference"


def _accuracy(model: ConvNet, test_images: tuple[Tensor, Tensor]) -> float:
    images, labels = test_images
    with torch.inference_mode():
        return (model(images).argmax(1) == labels).float().mean().item()
