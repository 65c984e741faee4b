"""The documentation, built once."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Site:
    """A built site.

    Attributes:
        folder: Of its pages.
        code: Exit code of `mkdocs build --strict`.
        log: Its output.
    """

    folder: Path
    code: int
    log: str

    def text(self, page: str) -> str:
        return (self.folder / page).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Site:
    """Built by the first process of a test run that asks for it; the others wait."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install 'senet[docs]'")
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    result = folder / "site.json"
    with (folder / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            code, log = build(folder / "site")
            result.write_text(json.dumps({"code": code, "log": log}))
    return Site(folder / "site", **json.loads(result.read_text()))


def build(folder: Path) -> tuple[int, str]:
    """Exit code and output of `mkdocs build --strict`."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr
