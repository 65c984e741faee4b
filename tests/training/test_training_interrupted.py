"""Stopped and killed for real, gone on with, and equal to the run that wasn't."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

COMMAND = [sys.executable, "-m", "senet", "train"]
OPTIONS = [
    *("--data", "digits", "--model", "se_cifar_resnet20", "--size", "8"),
    *("--epochs", "3", "--batch-size", "64", "--ema-decay", "0.9", "--mixup", "0.2"),
]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*COMMAND, *more], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, (out, err)
    return out + err


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def rows(folder: Path) -> list[list[str]]:
    lines = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return [line[:-2] for line in lines]  # the last two columns are times


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(folder, *OPTIONS, "--out", str(folder)))
    return folder


def assert_equal(one: Path, other: Path) -> None:
    for name in ("last", "best"):
        a, b = load_file(one / f"{name}.safetensors"), load_file(other / f"{name}.safetensors")
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert rows(one) == rows(other)


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_saves_and_the_resumed_run_is_the_same(tmp_path, uninterrupted, workers):
    folder = tmp_path / "run"
    process = start(folder, *OPTIONS, "--out", str(folder), "--workers", str(workers))
    wait_for(folder / "metrics.csv", process)  # the first epoch is done: now we are in the second
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said = finish(process, 130)
    assert f"senet train --resume {folder}" in said.replace("\n", "")
    assert "Traceback" not in said
    finish(start(folder, "--resume", str(folder), "--workers", str(workers)))
    assert_equal(folder, uninterrupted)


def test_stopped_within_the_very_first_epoch(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    process = start(folder, *OPTIONS, "--out", str(folder), "--workers", "0")
    wait_for(folder / "tensorboard", process)
    process.send_signal(signal.SIGTERM)
    finish(process, 130)
    state = torch.load(folder / "state.ckpt", weights_only=True)
    assert state["callbacks"]["Keeper"]["next"][0] == 0, "the signal came too late for this test to mean anything"
    finish(start(folder, "--resume", str(folder), "--workers", "0"))
    assert_equal(folder, uninterrupted)


def test_killed_and_resumed_from_the_epoch_before(tmp_path, uninterrupted):
    folder = tmp_path / "run"
    process = start(folder, *OPTIONS, "--out", str(folder), "--workers", "2")
    wait_for(folder / "metrics.csv", process)
    process.kill()
    process.communicate()
    finish(start(folder, "--resume", str(folder)))
    assert_equal(folder, uninterrupted)


@pytest.mark.parametrize("how", ["again", "resume"])
def test_killed_before_any_state_was_saved(tmp_path, uninterrupted, how):
    folder = tmp_path / "run"
    process = start(folder, *OPTIONS, "--out", str(folder), "--workers", "0")
    wait_for(folder / "run.json", process)
    process.kill()
    process.communicate()
    assert not (folder / "state.ckpt").exists()
    finish(start(folder, *(["--resume", str(folder)] if how == "resume" else [*OPTIONS, "--out", str(folder)])))
    assert_equal(folder, uninterrupted)


def test_what_can_not_be_resumed_says_so(tmp_path, uninterrupted):
    message = finish(start(uninterrupted, "--resume", str(uninterrupted)), 2)
    assert "is trained to its end" in message
    assert f"--init {uninterrupted}" in message  # --epochs is refused in a resumed run
    assert "holds no run" in finish(start(tmp_path / "x", "--resume", str(tmp_path)), 2)
    assert "--resume" in finish(start(tmp_path / "x", *OPTIONS, "--out", str(uninterrupted)), 2)
    (tmp_path / "run.json").write_text((uninterrupted / "run.json").read_text())
    (tmp_path / "metrics.csv").write_text((uninterrupted / "metrics.csv").read_text())
    assert "state.ckpt is gone" in finish(start(tmp_path / "x", "--resume", str(tmp_path)), 2)
    (tmp_path / "state.ckpt").write_bytes((uninterrupted / "state.ckpt").read_bytes()[:1000])
    assert "truncated" in finish(start(tmp_path / "x", "--resume", str(tmp_path)), 2)
    (tmp_path / "run.json").write_text("{")
    assert "run.json" in finish(start(tmp_path / "x", "--resume", str(tmp_path)), 2)


def test_two_processes_train_like_one_job(tmp_path):
    folder = tmp_path / "run"
    said = finish(
        start(folder, *OPTIONS, "--out", str(folder), "--devices", "2", "--strategy", "ddp", "--workers", "0")
    )
    assert said.count("epoch 3/3") == 1, "only the first process speaks"
    assert json.loads((folder / "last.json").read_text())["metrics"]["top1"] > 0.2
