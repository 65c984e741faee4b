"""Memory that a command has freed stays with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from senet.cli.memory import WISHES, keep_freed_memory

PROGRAM = """
import resource, sys
import senet.cli

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (200 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults(), faults()
sys.argv = ["senet", "--version"]
try:
    senet.cli.command()
except SystemExit:
    after = faults(), faults()
    print(before[1], after[1])
"""

on_glibc = pytest.mark.skipif("CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another C library than glibc")


@on_glibc
def test_freed_memory_is_used_again() -> None:
    """Counted in pages that the system brings for 200 MiB that were there before: without a command, and after one."""
    own = {name: value for name, value in os.environ.items() if name not in WISHES}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=own, text=True, capture_output=True, check=True)
    before, after = map(int, run.stdout.splitlines()[-1].split())
    assert before >= 100, "pages are of 2 MiB at most"
    assert after < before / 10


@pytest.mark.parametrize("name", WISHES)
def test_what_the_user_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1000000")
    assert not keep_freed_memory()
