"""One small SE network in each format, exported once."""

from __future__ import annotations

from pathlib import Path

import pytest
from export_helpers import SUFFIX, loaded

from senet.deploy import Check, ExportReport, export


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> dict[str, ExportReport]:
    """Format to the report of a file that is still there."""
    folder: Path = tmp_path_factory.mktemp("exported")
    network = loaded()
    return {f: export(network, folder / f"net{s}", format=f, check=Check(images=3)) for f, s in SUFFIX.items()}
