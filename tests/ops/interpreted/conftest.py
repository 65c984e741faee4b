"""The Triton kernels on CPU tensors, by Triton's interpreter.

It is chosen when a kernel is defined, so these tests need a process of their own: `make test-triton`, or
tests/ops/test_ops_triton.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from senet.ops import using

ON = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if ON else ["test_*.py"]


@pytest.fixture(autouse=True)
def _on() -> Iterator[None]:
    with using("triton"):
        yield


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts a sample and several steps a part, in a small map."""
    from senet.ops.triton import plan

    monkeypatch.setattr(plan, "TILE", 256)
    monkeypatch.setattr(plan, "PROGRAMS", 6)
