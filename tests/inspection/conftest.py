"""An inspected small network whose blocks have known roles."""

from __future__ import annotations

from pathlib import Path

import pytest
from inspection_helpers import CLASSES, batches, network
from torch import nn

from senet.inspection import Inspection, inspect, write
from senet.preprocessing import CIFAR


@pytest.fixture(scope="session")
def inspected() -> Inspection:
    """An inspection with one untrained block and one block whose gates don't depend on the image."""
    model = network()
    for path, bias in (("stages.2.1.se", 0.0), ("stages.4.2.se", 4.0)):
        layer = model.get_submodule(path)
        nn.init.zeros_(layer.fc2.weight)
        nn.init.constant_(layer.fc2.bias, bias)
    return inspect(
        model, batches(), CLASSES, network="a <net>", data="noise", outputs=CLASSES, preprocessing=CIFAR, examples=3
    )


@pytest.fixture(scope="session")
def folder(inspected, tmp_path_factory) -> Path:
    """The folder of the written report."""
    folder = tmp_path_factory.mktemp("report")
    write(inspected, folder / "new" / "report")
    return folder / "new" / "report"
