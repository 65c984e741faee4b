"""Which kernel is chosen, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from senet.ops import choose, describe
from senet.ops.cpu import library

LOOK = "from senet.ops import describe; print(describe())"


def described(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOOK], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_the_reference_can_be_asked_for() -> None:
    assert described(SENET_KERNELS="reference").stdout.strip() == "reference (SENET_KERNELS=reference)"


def test_a_wish_that_nobody_knows() -> None:
    run = described(SENET_KERNELS="fast")
    assert run.returncode == 1
    assert "unknown value of SENET_KERNELS 'fast'; known: compiled, reference" in run.stderr


def test_where_a_compiler_was_there_it_is_compiled() -> None:
    if not library._FILE.exists():
        pytest.skip("senet was installed without a compiler")
    assert describe().startswith("compiled (")


def test_without_the_file_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SENET_KERNELS", raising=False)
    monkeypatch.setattr(library, "_FILE", tmp_path / "_kernel.so")
    assert "not compiled when senet was installed" in choose.__wrapped__().reason
    (tmp_path / "_kernel.so").write_bytes(b"not a library")
    assert "can't be loaded" in choose.__wrapped__().reason


def test_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if choose().library is None:
        pytest.skip(choose().reason)
    monkeypatch.setattr(library, "_ABI", -1)
    chosen = choose.__wrapped__()
    assert chosen.library is None
    assert "another version" in chosen.reason


def test_it_runs_on_the_threads_of_torch() -> None:
    if choose().library is None or not torch.__config__.parallel_info().count("OpenMP"):
        pytest.skip(choose().reason)
    if sys.platform == "linux":
        assert "PyTorch's threads" in choose().reason
