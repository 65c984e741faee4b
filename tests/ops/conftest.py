"""Small maps and weights, too, go through the operators here."""

from __future__ import annotations

import pytest

import senet.nn.epilogue as epilogue
from senet.fusion import convolutions


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epilogue, "MIN_ELEMENTS", dict.fromkeys(epilogue.MIN_ELEMENTS, 0))
    monkeypatch.setattr(epilogue, "GPU_MIN_ELEMENTS", 0)
    monkeypatch.setattr(convolutions, "MIN_PACKED_CHANNELS", 0)
