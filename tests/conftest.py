"""What all tests share: how many examples property tests draw, curves that are drawn once, loaders that end at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import settings

# `make test` takes the first profile, `make test-all` the second.
settings.register_profile("quick", max_examples=50, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile("quick")

_DRAWN: dict[tuple[Any, ...], bytes] = {}


def _draw_once(rows: Sequence[dict[str, float]], path: Path, score: Any, title: str = "") -> None:
    """Draw the first table of each kind; write that picture again for others, since a picture takes half a training."""
    finite = all(math.isfinite(value) for row in rows for value in row.values())
    kind = (*sorted(rows[0]), score.key, len(rows) > 1, finite)
    if kind not in _DRAWN:
        from senet.training.curves import draw_curves

        draw_curves(rows, path, score, title)
        _DRAWN[kind] = path.read_bytes()
    path.write_bytes(_DRAWN[kind])


def pytest_runtest_setup() -> None:
    """Only where a training or a loader was imported, which takes seconds."""
    if checkpointer := sys.modules.get("senet.training.checkpointer"):
        checkpointer.draw_curves = _draw_once  # type: ignore[attr-defined]
    if loading := sys.modules.get("torch.utils.data._utils"):
        # So long, not 5 s, a loader waits for a process that failed before it ends it.
        loading.MP_STATUS_CHECK_INTERVAL = 0.5  # type: ignore[attr-defined]
