"""The wheel: its tags and content, and the demo with it where there is no compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREE = ("src", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tree without build outputs."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in TREE:
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name, **({"ignore": ignored} if (ROOT / name).is_dir() else {}))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / "dist"), str(tree))
    (found,) = (folder / "dist").glob("*.whl")
    return found


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True)


def test_one_wheel_serves_all_pythons(wheel: Path) -> None:
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"senet/ops/cpu/_kernel.so", "senet/py.typed"} <= {*names}
    page = {path.name for path in (ROOT / "src/senet/inspection/page").iterdir() if path.is_file()}
    assert page == {Path(name).name for name in names if name.startswith("senet/inspection/page/")}
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]


def test_the_demo_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    pip("install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    (tmp_path / "bin").mkdir()
    own = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PATH": str(tmp_path / "bin")}
    assert not any(shutil.which(name, path=own["PATH"]) for name in ("gcc", "clang", "cc"))

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=own, capture_output=True, text=True, check=True, timeout=800
        ).stdout

    out = python(str(ROOT / "tools" / "check_wheel.py"))
    assert str(tmp_path / "site") in out
    assert "PyTorch's threads" in out or "one thread" in out
    assert "of the test digits" in python(str(ROOT / "examples" / "demo.py"))
