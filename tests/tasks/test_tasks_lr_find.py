"""The learning rate finder: exact steps, a suggestion, no trace, for all three tasks."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from senet.cli import main
from senet.errors import SenetError
from senet.training import DataOptions, Job, ModelInitialization, Recipe, RunOptions, find_learning_rate
from senet.training.checkpointer import TrainingCheckpointer
from senet.training.interruption import Interrupted
from senet.training.lr_finder import _RangeTest, steepest

OPTIONS = {"depth": 1, "widths": [8, 16]}
JOB = Job(
    source=DataOptions(data="digits", limit=96),
    network=ModelInitialization(model="cifar_resnet20", options=OPTIONS, size=(8, 8)),
    recipe=Recipe(epochs=1, batch_size=32, lr=0.05, mixup=0.2, label_smoothing=0.1, schedule="constant",
                  warmup_epochs=0, grad_accumulation=2, backbone_lr_factor=0.1),
    run=RunOptions(workers=0, logger="csv", log_every=1),
)  # fmt: skip


def test_the_first_step_is_that_of_a_training(tmp_path, monkeypatch):
    """Data, mixing, loss, micro-batches and scaled learning rates: two steps at the recipe's own rate."""
    JOB.start(tmp_path / "run")
    state = torch.load(next((tmp_path / "run" / "states").glob("*.ckpt")), weights_only=True)
    logged = [value for _, value in TrainingCheckpointer.saved_part(state)["losses"]]
    monkeypatch.setattr(_RangeTest, "_rate", lambda self, step: 0.05 + 1e-13 * step)
    found = find_learning_rate(JOB, steps=10)
    assert found.losses[: len(logged)] == pytest.approx(logged, abs=1e-9)
    assert len(logged) == 3 < len(found.losses)


def test_rates_rise_to_the_end_and_nothing_remains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    calls = []
    found = find_learning_rate(JOB, start=1e-4, end=0.1, steps=12, progress=lambda *step: calls.append(step))
    assert found.rates == pytest.approx(np.geomspace(1e-4, 0.1, 12).tolist())
    assert not found.diverged
    assert calls == [(n + 1, 12) for n in range(12)]
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGINT) is handler


def test_it_ends_where_the_loss_explodes():
    found = find_learning_rate(replace(JOB, recipe=replace(JOB.recipe, grad_accumulation=1)), end=1e6, steps=30)
    assert found.diverged
    assert len(found.losses) < 30
    assert all(map(math.isfinite, found.losses))


def test_ctrl_c_ends_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def press(done, _total):
        if done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        find_learning_rate(JOB, progress=press)
    assert list(tmp_path.iterdir()) == []


def test_the_steepest_fall_before_the_minimum():
    rates = np.geomspace(1e-5, 10, 61)
    losses = 2 - np.tanh(np.log(rates / 0.01)) + 5 * (rates > 1) * rates
    assert steepest(rates.tolist(), losses.tolist()) == pytest.approx(0.01, rel=0.15)
    assert steepest(rates.tolist(), rates.tolist()) is None


@pytest.mark.parametrize(("changes", "message"), [
    ({"start": 1.0, "end": 0.1}, r"start=1 must be positive and below end=0.1"),
    ({"steps": 3}, "steps=3 must be at least 10"),
])  # fmt: skip
def test_impossible_ranges(changes, message):
    with pytest.raises(SenetError, match=message):
        find_learning_rate(JOB, **changes)
    with pytest.raises(SenetError, match="runs on one device"):
        find_learning_rate(replace(JOB, run=RunOptions(devices=2)))


@pytest.mark.parametrize("task", [pytest.param("voc", marks=pytest.mark.slow), "masks"])
def test_detectors_and_segmentation_networks(task, request, tmp_path, monkeypatch, capsys):
    data = request.getfixturevalue(task)
    monkeypatch.chdir(tmp_path)
    name = {"voc": "detection", "masks": "segmentation"}[task]
    head = {"voc": "fcos:channels=32", "masks": "unet:channels=16"}[task]
    before = set(tmp_path.iterdir())
    code = main(["lr-find", "se_cifar_resnet20", "--model-kwargs", "depth=1", "--data", f"{task}:{data}", "--task",
                 name, "--size", "32", "--head", head, "--batch-size", "4", "--steps", "10", "--workers", "0",
                 "--json"])  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0, err
    found = json.loads(out)
    assert len(found["losses"]) == len(found["rates"]) >= 5
    assert set(tmp_path.iterdir()) == before


def test_chart_and_words(tmp_path, capsys):
    common = ["lr-find", "cifar_resnet20", "--model-kwargs", "depth=1", "widths=[8,16]", "--data", "digits", "--size",
              "8", "--limit", "96", "--batch-size", "32", "--workers", "0"]  # fmt: skip
    assert main([*common, "--out", str(tmp_path / "chart.png"), "--optimizer", "adamw", "--steps", "40"]) == 0
    out = capsys.readouterr().out
    assert "cifar_resnet20 on digits, adamw, batch 32: " in out
    assert "suggestion: --lr " in out
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.size == (840, 480)
    assert Path(tmp_path / "chart.png").stat().st_size < 100_000
    assert main([*common, "--out", str(tmp_path)]) == 2
    assert "give the name of a .png file" in capsys.readouterr().err
    assert main(["lr-find", "cifar_resnet20"]) == 2
    assert "--data is missing" in capsys.readouterr().err
