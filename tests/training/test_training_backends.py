"""TF32 and cuDNN's choice of algorithms in a training, without a GPU: the settings of its steps are recorded."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from senet.cli import main
from senet.comparison import measuring
from senet.comparison.plan import Comparison
from senet.comparison.running import _settings
from senet.comparison.variant import Variant
from senet.inference import backends
from senet.tasks import TASKS, task_named
from senet.training import fit as fitting
from senet.training.job import DataOptions
from senet.training.model_initialization import ModelInitialization
from senet.training.module import TrainingModule
from senet.training.recipe import RunOptions
from senet.training.recipes import recipe_named

FLAGS = (
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn, "allow_tf32"),
    (torch.backends.cuda.matmul, "allow_tf32"),
)


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Apply the settings of a CUDA device on the CPU."""

    @contextmanager
    def forced(_, **settings):
        with backends.cuda_backends(torch.device("cuda"), **settings):
            yield

    for module in (fitting, measuring):
        monkeypatch.setattr(module, "cuda_backends", forced)


@pytest.mark.parametrize(
    ("run", "expected"),
    [({}, (True, True, True)), ({"tf32": False}, (True, False, False)), ({"deterministic": True}, (False, True, True))],
    ids=["default", "no-tf32", "deterministic"],
)
def test_the_steps_of_a_training(train, as_on_cuda, monkeypatch, run, expected):
    seen, step = set(), TrainingModule.training_step

    def recording(self, batch, batch_idx):
        seen.add(tuple(getattr(*flag) for flag in FLAGS))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", recording)
    try:
        train(epochs=1, how=RunOptions(workers=0, **run))
    finally:
        torch.use_deterministic_algorithms(False)
    assert seen == {expected}
    assert [getattr(*flag) for flag in FLAGS] == [False, True, False]


@pytest.mark.parametrize(("run", "expected"), [({}, (True, True, True)), ({"tf32": False}, (True, False, False))])
def test_the_timed_steps_of_a_comparison_are_those_of_the_training(as_on_cuda, monkeypatch, run, expected):
    seen, step = set(), measuring._Network.step

    def recording(self):
        seen.add(tuple(getattr(*flag) for flag in FLAGS))
        step(self)

    monkeypatch.setattr(measuring._Network, "step", recording)
    data = DataOptions(data="digits", limit=32)
    recipe = replace(recipe_named("digits"), batch_size=8)
    network = ModelInitialization(model="se_cifar_resnet20", size=(8, 8), options={"depth": 1})
    variants = (Variant(name="se", init=network, recipe=recipe),)
    comparison = Comparison(source=data, variants=variants, seeds=(0,), run=RunOptions(workers=0, **run))
    measuring.training_costs(comparison, data.open(), seconds=0.01)
    assert seen == {expected}


def test_only_tasks_with_one_image_size_choose_algorithms():
    """Detection and segmentation validate images of any size, and each size would be tried anew."""
    assert {name: task_named(name).has_fixed_size for name in TASKS} == {
        "classification": True, "multi-label": True, "detection": False, "segmentation": False,
    }  # fmt: skip


def test_the_setting_is_stored_and_restored(tmp_path, capsys):
    options = ["--data", "digits", "--limit", "64", "--epochs", "1", "--workers", "0", "--json"]
    folder = str(tmp_path / "run")
    network = ["se_cifar_resnet20", "--model-kwargs", "depth=1"]
    assert main(["train", *network, *options, "--no-tf32", "--out", folder]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run"]["tf32"] is False
    capsys.readouterr()
    for more, expected in (([], False), (["--tf32"], True)):
        assert main(["train", "--resume", folder, "--epochs", "2", "--dry-run", "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["run"]["tf32"] is expected


def test_all_networks_of_a_comparison_have_the_same():
    data = DataOptions(data="digits")
    network = ModelInitialization(model="se_cifar_resnet20", size=(8, 8))
    variants = (Variant(name="se", init=network, recipe=recipe_named("digits")),)
    found = [
        Comparison(source=data, variants=variants, seeds=(0,), run=RunOptions(tf32=tf32)) for tf32 in (True, False)
    ]
    assert not found[0].trains_as(found[1])
    assert _settings(found[0].job(variants[0], 0)) != _settings(found[1].job(variants[0], 0))
