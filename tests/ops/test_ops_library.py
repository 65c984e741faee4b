"""Which kernel is chosen, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from senet.ops import choose, describe, triton, using
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
    assert "unknown value of SENET_KERNELS 'fast'; known: compiled, reference, triton" in run.stderr


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


def test_triton_is_off_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a GPU, for it was never measured on one."""
    monkeypatch.setattr(triton.library, "_place", lambda: ("", "a GPU"))
    for wish, on in (("compiled", False), ("reference", False), ("triton", True)):
        with using(wish):
            assert triton.state() == triton.State(available=True, on=on, reason="a GPU")
            assert triton.describe().startswith("on (a GPU" if on else "off (a GPU; SENET_KERNELS=triton")
            assert "never measured on a GPU" in triton.describe()
    triton.state.cache_clear()


def test_triton_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    place = triton.library._place.__wrapped__
    monkeypatch.setattr(triton.library, "interpreted", lambda: False)
    monkeypatch.setattr(triton.library, "find_spec", lambda _: None)
    assert place() == ("triton is not installed", "")
    monkeypatch.setattr(triton.library, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert place() == ("no NVIDIA GPU", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: ((8, 0), (7, 5))[i])
    assert place() == ("a GPU has a compute capability below 8.0", "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert place() == ("", "GPU")


def test_asking_for_triton_keeps_the_kernel_on_cpus() -> None:
    before = describe()
    with using("triton"):
        assert describe() == before
    run = described(SENET_KERNELS="triton")
    assert run.stdout.strip() == before


def test_triton_is_imported_when_it_runs() -> None:
    code = "import senet.fusion, senet.models.registry, sys; print('senet.ops.triton.step' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
