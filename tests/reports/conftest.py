"""A report of a network that reads the colour, on images some of which are in the wrong folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_helpers import ABOUT, CLASSES, PLAIN, MeanColour, Written

from senet.data import open_data
from senet.reports import report_classification
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
