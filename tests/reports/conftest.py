"""A report of a network that reads the colour, on images some of which are in the wrong folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_helpers import ABOUT, CLASSES, PLAIN, THRESHOLDS, MeanColour, Written

from senet.data import Data, MemorySource, open_data
from senet.reports import report_classification, report_multi_label
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """Five images of each class, one of them unreadable."""
    root, draw = tmp_path_factory.mktemp("colours"), np.random.RandomState(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir()
        for number in range(5):
            pixels = draw.randint(0, 120, (20, 30, 3), dtype=np.uint8)
            pixels[..., (label + (number > 2)) % 3] += 60
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    (root / CLASSES[1] / "4.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    metadata = CheckpointMetadata(model="a <net>", classes=CLASSES, preprocessing=PLAIN)
    return LoadedModel(MeanColour().eval(), CLASSES, PLAIN, metadata)


@pytest.fixture(scope="session")
def written(images, loaded, tmp_path_factory) -> Written:
    data = open_data(f"folder:{images}")
    folder = tmp_path_factory.mktemp("reports") / "new" / "report"
    result, document = report_classification(
        folder, loaded, data.split("all"), data.classes, about=ABOUT, batch_size=4, workers=0
    )
    return Written(folder, data, loaded, result, document)


@pytest.fixture(scope="session")
def of_labels(tmp_path_factory) -> Written:
    """Fourteen images with a brighter channel for each label; two have wrong labels, and none has the last label."""
    draw = np.random.RandomState(0)
    labels = (draw.rand(14, 3) < 0.5).astype(np.uint8)
    labels[:, 2] = 0
    pixels = draw.randint(0, 60, (14, 8, 8, 3)) + 160 * labels[:, None, None, :]
    labels[:2] = 1 - labels[:2]
    labels[:, 2] = 0
    source = MemorySource([(Image.fromarray(one.astype(np.uint8)),) for one in pixels], labels, name="colours")
    metadata = CheckpointMetadata(
        model="a <net>", classes=CLASSES, preprocessing=PLAIN, task="multi-label", thresholds=THRESHOLDS
    )
    loaded = LoadedModel(MeanColour().eval(), CLASSES, PLAIN, metadata)
    folder = tmp_path_factory.mktemp("reports") / "labels"
    result, document = report_multi_label(folder, loaded, source, CLASSES, about=ABOUT, batch_size=4, workers=0)
    return Written(folder, Data("colours", CLASSES, source, source, task="multi-label"), loaded, result, document)
