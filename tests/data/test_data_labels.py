"""Labels of one class or of any number of classes, from a source to a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from senet.data import Data, ImageDataset, MemorySource, Subset, eval_loader, eval_transform
from senet.preprocessing import Preprocessing

TARGETS = [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
IMAGES = Preprocessing(size=(8, 8))


def source() -> MemorySource:
    return MemorySource([(Image.new("RGB", (8, 8), (i, i, i)),) for i in range(3)], TARGETS, name="three")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_multi_label_images_has_float_targets(workers):
    dataset = ImageDataset(source(), eval_transform(IMAGES))
    batch = next(iter(eval_loader(dataset, batch_size=3, workers=workers)))
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == TARGETS


def test_one_image_and_its_identity():
    image, target = source()[0]
    assert image.size == (8, 8)
    assert torch.equal(target, torch.tensor([0.0, 1.0, 1.0]))
    assert [source().entry(i).target for i in range(3)] == ["1 2", "", "0"]


def test_data_says_it():
    parts = [Subset(source(), np.array(part)) for part in ([0, 1], [2])]
    data = Data("three", ("a", "b", "c"), *parts, task="multi-label")
    assert data.multi_label
    assert data.split("all").labels.tolist() == TARGETS
    assert not Data("three", ("a", "b", "c"), *parts).multi_label
    assert len(data.digest) == 64


@pytest.mark.parametrize("labels", [[[0, 2]], [[[0]]]])
def test_other_values_are_refused(labels):
    with pytest.raises(ValueError, match=r"0 and 1|0 or 1"):
        MemorySource([(Image.new("L", (8, 8)),)], labels, name="one")
