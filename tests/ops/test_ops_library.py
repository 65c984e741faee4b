"""Which kernel is chosen, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from senet.ops import choose, describe, using
from senet.ops.cpu import library

LOOK = "from senet.ops import describe; print(describe())"


def described(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOOK], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENET_KERNELS", "reference")
    choose.cache_clear()
    try:
        assert describe() == "reference (SENET_KERNELS=reference)"
    finally:
        monkeypatch.undo()
        choose.cache_clear()


def test_a_wish_that_nobody_knows() -> None:
    run = described(SENET_KERNELS="fast")
    assert run.returncode == 1
    assert "unknown value of SENET_KERNELS 'fast'; known: compiled, reference" in run.stderr


def test_where_a_compiler_was_there_it_is_compiled() -> None:
    if not library._FILE.exists():
        pytest.skip("senet was installed without a compiler")
    assert describe().startswith("compiled (")


def test_without_the_file_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "_kernel.so"
    assert "not compiled when senet was installed" in library._loaded.__wrapped__(file).reason
    file.write_bytes(b"not a library")
    assert "can't be loaded" in library._loaded.__wrapped__(file).reason


def test_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if choose().library is None:
        pytest.skip(choose().reason)
    monkeypatch.setattr(library, "_ABI", -1)
    chosen = library._loaded.__wrapped__(library._FILE)
    assert chosen.library is None
    assert "another version" in chosen.reason


def test_it_runs_on_the_threads_of_torch() -> None:
    if choose().library is None or not torch.__config__.parallel_info().count("OpenMP"):
        pytest.skip(choose().reason)
    if sys.platform == "linux":
        assert "PyTorch's threads" in choose().reason


def test_a_measurement_switches_and_switches_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for before in ("reference", None):
        monkeypatch.delenv("SENET_KERNELS", raising=False)
        if before:
            monkeypatch.setenv("SENET_KERNELS", before)
        choose.cache_clear()
        first = choose()
        for wish in ("reference", "compiled"):
            with pytest.raises(ZeroDivisionError), using(wish):
                _ = 1 // 0
            with using(wish):
                assert (choose().reason == "SENET_KERNELS=reference") == (wish == "reference")
        assert os.environ.get("SENET_KERNELS") == before
        assert choose() == first
    monkeypatch.undo()
    choose.cache_clear()
