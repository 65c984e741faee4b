"""Trainings with `senet.accelerate`: the same losses to rounding, the same files, and no trace in the network."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from senet.cli import main
from senet.data import Data
from senet.data.augmentation import Augmentation
from senet.fusion import AccelerateReport
from senet.fusion.deferred import plain_type
from senet.ops import choose, using
from senet.tasks import task_named
from senet.training import acceleration
from senet.training.acceleration import accelerated, runs_fused
from senet.training.fit import Network, fit
from senet.training.recipe import Recipe, RunOptions
from senet.training.status import run_status
from senet.zoo import build_model

needs_kernel = pytest.mark.skipif(choose().library is None, reason=f"no compiled kernel: {choose().reason}")
CPU = torch.device("cpu")
RECIPE = Recipe(epochs=1, batch_size=40, lr=0.01, warmup_epochs=0, augmentation=Augmentation(crop="none", hflip=0))
NETWORKS = {"se_mobilenet_v1_025": 64, "timm:mobilenetv3_small_050": 64}
"""Name to the size of its images in pixels."""

Reports = list[AccelerateReport]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Reports:
    """The report of each network that a training accelerates."""
    made: Reports = []
    original = acceleration.accelerate
    monkeypatch.setattr(acceleration, "accelerate", lambda *given: made.append(original(*given)) or made[-1])
    return made


def built(name: str, data: Data) -> Network:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = build_model(name, num_classes=len(data.classes), in_channels=1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    assert data.default_preprocessing is not None
    return Network(model, name, {}, replace(data.default_preprocessing, size=(NETWORKS[name], NETWORKS[name])))


def trained(
    network: Network, data: Data, folder: Path, *, run: RunOptions, resume: bool = False, **changes: Any
) -> tuple[list[dict[str, float]], str]:
    """Rows of the training and its output."""
    folder.mkdir(exist_ok=True)
    said, recipe = io.StringIO(), replace(RECIPE, **changes)
    state = run_status(folder, epochs=recipe.epochs, metric="top1").state if resume else None
    console = Console(file=said, width=200)
    outcome = fit(network, data, recipe, folder, run=replace(run, workers=0), state=state, console=console)
    return outcome.rows, said.getvalue()


def untouched(model: nn.Module) -> bool:
    """Whether every module has its own class."""
    return all(plain_type(module) is type(module) for module in model.modules())


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "average": ({"ema_decay": 0.9}, {}),
    "attention alone": ({"train": "attention"}, {}),
    "micro-batches": ({"grad_accumulation": 2}, {}),
    "contiguous": ({}, {"channels_last": False}),
}
"""Changes of the recipe and of the options."""
PAIRS = [
    *(("se_mobilenet_v1_025", case) for case in CASES),
    *(("timm:mobilenetv3_small_050", case) for case in ("plain", "average")),
]


@needs_kernel
@pytest.mark.parametrize(("name", "case"), PAIRS)
def test_the_losses_agree_with_separate_modules(
    name: str, case: str, few_digits: Data, tmp_path: Path, reports: Reports
) -> None:
    recipe, run = CASES[case]
    batch = len(few_digits.train)  # one step an epoch: the first row is the loss of the first step
    found: dict[bool, list[dict[str, float]]] = {}
    for accelerate in (True, False):
        network = built(name, few_digits)
        options = RunOptions(accelerate=accelerate, **run)
        rows, said = trained(
            network, few_digits, tmp_path / str(accelerate), run=options, epochs=3, batch_size=batch, **recipe
        )
        found[accelerate] = rows
        assert ("attention layers run with their norm" in said) is accelerate
        assert len(reports) == (2 if case == "average" else 1)
        assert all(report.fused for report in reports)
        assert untouched(network.model)
    assert found[True][0]["train_loss"] == pytest.approx(found[False][0]["train_loss"], rel=1e-5)
    # Weights that differ by 1e-7 give later losses in training that differ by up to 1 %, without the operator too.
    for mine, plain in zip(found[True], found[False], strict=True):
        assert mine["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-3)
    mine, plain = (load_file(tmp_path / str(accelerate) / "last.safetensors") for accelerate in (True, False))
    assert {key: (t.shape, t.dtype) for key, t in mine.items()} == {k: (t.shape, t.dtype) for k, t in plain.items()}
    assert any(not torch.equal(t, plain[key]) for key, t in mine.items()), "the operator rounds otherwise: it has run"


@needs_kernel
def test_recomputed_blocks_agree(few_digits: Data, tmp_path: Path) -> None:
    batch = len(few_digits.train)
    losses = []
    for accelerate in (True, False):
        network = built("se_mobilenet_v1_025", few_digits)
        run = RunOptions(accelerate=accelerate, grad_checkpointing=True)
        rows, _ = trained(network, few_digits, tmp_path / str(accelerate), run=run, epochs=3, batch_size=batch)
        losses.append([rows[0]["train_loss"], *(row["val_loss"] for row in rows)])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0] != losses[1]


@needs_kernel
def test_a_resumed_run_is_the_same_to_the_bit_and_may_change_its_mind(few_digits: Data, tmp_path: Path) -> None:
    name, on = "timm:mobilenetv3_small_050", RunOptions()
    whole, _ = trained(built(name, few_digits), few_digits, tmp_path / "whole", run=on, epochs=2, schedule="constant")
    final = load_file(tmp_path / "whole" / "last.safetensors")
    for folder, run in (("same", on), ("other", replace(on, accelerate=False))):
        trained(built(name, few_digits), few_digits, tmp_path / folder, run=on, epochs=1, schedule="constant")
        rows, _ = trained(
            built(name, few_digits), few_digits, tmp_path / folder, run=run, resume=True, epochs=2, schedule="constant"
        )
        weights = load_file(tmp_path / folder / "last.safetensors")
        same = all(torch.equal(tensor, weights[key]) for key, tensor in final.items())
        assert same is (folder == "same")
        assert rows[-1]["train_loss"] == pytest.approx(whole[-1]["train_loss"], rel=0.05)


@needs_kernel
def test_nothing_stays_after_an_error(few_digits: Data) -> None:
    model = built("se_mobilenet_v1_025", few_digits).model

    def interrupted() -> None:
        with accelerated([model], [torch.zeros(1, 1, 64, 64)], RunOptions(), CPU):
            assert not untouched(model)
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        interrupted()
    assert untouched(model)


@needs_kernel
def test_a_network_that_can_not_be_traced_trains_as_it_is(few_digits: Data) -> None:
    said: list[str] = []
    model = built("se_mobilenet_v1_025", few_digits).model
    with accelerated([model], [torch.zeros(1, 7, 64, 64)], RunOptions(), CPU, report=said.append):
        assert untouched(model)
    assert len(said) == 1
    assert "run separately from their norms: " in said[0]


@needs_kernel
def test_a_network_without_attention_has_no_line(few_digits: Data) -> None:
    said: list[str] = []
    model = build_model("mobilenet_v1_025", num_classes=2, in_channels=1)
    with accelerated([model], [torch.zeros(1, 1, 64, 64)], RunOptions(), CPU, report=said.append):
        assert untouched(model)
    assert not said


@needs_kernel
@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_backbones_of_other_tasks(task: str) -> None:
    from senet.preprocessing import Preprocessing

    images = Preprocessing(size=(96, 96))
    network = (
        task_named(task).build("se_mobilenet_v1_025", num_classes=2, preprocessing=images, options={}, head={}).eval()
    )
    batch = torch.rand(2, 3, 96, 96)
    said: list[str] = []
    with torch.no_grad():
        before = task_named(task).outputs(network, batch)
        with accelerated([network], task_named(task).example(images), RunOptions(), CPU, report=said.append):
            during = task_named(task).outputs(network, batch)
        after = task_named(task).outputs(network, batch)
    assert said == ["13 of 13 attention layers run with their norm (--no-accelerate: separately)"]
    for a, b, c in zip(before, during, after, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
        assert torch.equal(a, c)


@pytest.mark.parametrize(
    ("changes", "device", "devices"),
    [
        ({"accelerate": False}, "cpu", 1),
        ({"compile": True}, "cpu", 1),
        ({}, "cuda", 1),
        ({}, "cpu", 2),
    ],
    ids=["no-accelerate", "compile", "cuda", "synchronized norms"],
)
def test_where_it_has_no_effect(changes: dict[str, Any], device: str, devices: int) -> None:
    assert not runs_fused(RunOptions(**changes), torch.device(device), devices=devices)


@needs_kernel
def test_where_it_has_an_effect() -> None:
    assert runs_fused(RunOptions(), CPU)
    assert runs_fused(RunOptions(sync_bn=False), CPU, devices=2)
    with using("reference"):
        assert not runs_fused(RunOptions(), CPU)


def test_the_setting_is_stored_and_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", "digits", "--limit", "64", "--epochs", "1", "--workers", "0", "--json"]
    folder = str(tmp_path / "run")
    network = ["se_cifar_resnet20", "--model-kwargs", "depth=8"]
    assert main(["train", *network, *options, "--no-accelerate", "--out", folder]) == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run"]["accelerate"] is False
    capsys.readouterr()
    for more, expected in (([], False), (["--accelerate"], True)):
        assert main(["train", "--resume", folder, "--epochs", "2", "--dry-run", "--json", *more]) == 0
        assert json.loads(capsys.readouterr().out)["run"]["accelerate"] is expected
