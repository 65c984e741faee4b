"""The tutorial's own text, run as a reader would: every shell and Python block, in order, in an empty folder."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from page_fences import DOCS, Fence, fences
from processes import start

PAGES = ("tutorial.md", "tutorial.zh-CN.md")

pytestmark = pytest.mark.timeout(900)  # a training, an export and all else that the page does


def without_comments(fence: Fence) -> tuple[str, list[str]]:
    """Language and lines of a block, less what is written for people."""
    lines = (line.partition("  # ")[0].rstrip() for line in fence.code.splitlines())
    return fence.language, [line for line in lines if line and not line.startswith("#")]


def run(fence: Fence, folder: Path, log: Path) -> str:
    """Run a block, its script or each of its commands in a process of its own; gives what it printed."""
    if fence.language == "python":
        done = subprocess.run([sys.executable, "-c", fence.code], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{fence.code}\n{done.stdout}\n{done.stderr}"
        return done.stdout
    for line in fence.code.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "senet", "other programs would need a shell"
        start(*arguments, log=log, directory=str(folder), environment={"COLUMNS": "120"}).finish()
    return log.read_text()


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder after the last block, and what each block printed."""
    folder, logs = tmp_path_factory.mktemp("tutorial"), tmp_path_factory.mktemp("logs")
    return folder, [run(fence, folder, logs / str(number)) for number, fence in enumerate(blocks())]


def test_the_tutorial_runs_from_its_own_text(output):
    folder, printed = output
    best = json.loads((folder / "runs/digits/best.json").read_text())
    assert best["metrics"]["top1"] > 0.7, "the text promises a network that has learned"
    assert best["classes"] == [str(digit) for digit in range(10)]
    named = [
        "runs/digits/best.safetensors", "runs/digits/last.safetensors", "runs/digits/last.json",
        "runs/digits/metrics.csv", "runs/digits/curves.png", "runs/digits/run.json", "runs/digits/states",
        "report/index.html", "digits.onnx", "digits-int8.xml", "digits-int8.bin",
    ]  # fmt: skip
    assert [name for name in named if not (folder / name).exists()] == []
    rows = list(csv.DictReader((folder / "predictions.csv").open()))
    assert len(rows) == 200
    right = sum(Path(row["path"]).parent.name == row["label"] for row in rows)
    assert right > 130, "the int8 file is as good as the network"
    # The file without this package gives the class that `senet predict` gives.
    path, _, label = printed[-1].strip().partition(" -> ")
    assert label == next(row["label"] for row in rows if row["path"] == str(folder / path))


def test_the_dry_run_trains_nothing_and_the_training_does(output):
    _, printed = output
    plans = [text for text, fence in zip(printed, blocks(), strict=True) if "--dry-run" in fence.code]
    assert len(plans) == 1
    assert "se_cifar_resnet20" in plans[0]


def test_an_evaluation_shows_an_interval(output):
    _, printed = output
    evaluations = [text for text, fence in zip(printed, blocks(), strict=True) if "senet evaluate" in fence.code]
    assert len(evaluations) == 2
    for text in evaluations:
        assert "95 % of images" in text
        assert "200" in text


def blocks() -> list[Fence]:
    return [fence for fence in fences("tutorial.md") if fence.language in ("bash", "python")]


def test_both_languages_have_the_same_code():
    english, chinese = ([without_comments(fence) for fence in fences(page)] for page in PAGES)
    assert english == chinese


def test_both_languages_link_to_each_other():
    for page, other in (PAGES, PAGES[::-1]):
        assert f"]({other})" in (DOCS / page).read_text(encoding="utf-8")
