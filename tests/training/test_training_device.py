"""What a training reads from its device: nothing in most steps, since it would wait for a GPU to finish them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import run
from reads import Reads, of_training
from rich.console import Console
from torch import nn

from senet.data import Data
from senet.tasks import task_named
from senet.training.averaging import AveragedWeights
from senet.training.module import TrainingModule
from senet.training.optim import make_optimizer
from senet.training.pulse import Pulse
from senet.training.recipe import Recipe, RunOptions

DECISIONS = {1: {0, 2, 6, 14, 30, 39}, 2: {1, 3, 7, 15, 31, 39}}
"""By the number of micro-batches, of 40 steps. Intervals double while they are short, and the validation follows."""


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ({}, {}),
        ({"ema_decay": 0.9, "optimizer": "adamw", "label_smoothing": 0.1}, {}),
        ({"clip_grad_norm": 1.0, "grad_accumulation": 2, "batch_size": 8}, {"grad_checkpointing": True}),
        ({}, {"precision": "bf16"}),
    ],
    ids=["plain", "averaged", "clipped", "bf16"],
)
def test_most_steps_read_nothing(
    few_digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any], options: dict[str, Any]
) -> None:
    terminal = Console(file=io.StringIO(), width=200, force_terminal=True)
    with of_training(monkeypatch.setattr) as reads:
        run(
            tmp_path / "run",
            few_digits,
            how=RunOptions(workers=0, **options),
            console=terminal,
            **{"epochs": 1, "batch_size": 4, "lr": 1e-3, **recipe},
        )
    assert reads.step == 39
    steps = reads.of_steps()
    decisions = DECISIONS[recipe.get("grad_accumulation", 1)]
    assert not {step: lines for step, lines in steps.items() if step not in decisions}
    assert steps.keys() == decisions, "it would be seen"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_scaled_gradients_are_checked_on_the_device(optimizer: str) -> None:
    for fused in (True, None):
        model, reads, scaler = nn.Linear(4, 4), Reads(), torch.amp.GradScaler("cpu")
        made = make_optimizer(model, Recipe(optimizer=optimizer, lr=0.1), fused=fused)
        before = model.weight.detach().clone()
        with reads.watching():
            for x in (torch.ones(2, 4), torch.full((2, 4), torch.inf)):
                made.zero_grad()
                scaler.scale(model(x).sum()).backward()
                scaler.step(made)
                scaler.update()
        assert not torch.equal(model.weight, before)
        assert model.weight.isfinite().all()
        assert bool(reads.found) is (fused is None)


@pytest.mark.parametrize(
    ("precision", "changes", "fused"),
    [("16-mixed", {}, True), ("16-mixed", {"clip_grad_norm": 1.0}, None), ("bf16-mixed", {}, None)],
)
def test_the_optimizer_checks_them_unless_they_are_clipped(
    precision: str, changes: dict[str, Any], fused: bool | None
) -> None:
    recipe = Recipe(**changes)
    module = TrainingModule(nn.Conv2d(1, 1, 1), recipe, task_named("classification").objective("ab", recipe))
    strategy = SimpleNamespace(model=module)
    module._trainer = SimpleNamespace(precision=precision, strategy=strategy, estimated_stepping_batches=9)  # type: ignore[assignment]
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is fused


def test_the_progress_bar_shows_loss_and_accuracy_so_far(few_digits: Data, tmp_path: Path) -> None:
    shown = io.StringIO()
    outcome, _ = run(
        tmp_path / "run",
        few_digits,
        console=Console(file=shown, width=200, force_terminal=True),
        epochs=1,
        grad_accumulation=2,
        optimizer="adamw",
    )
    (row,) = outcome.rows
    assert f"loss {row['train_loss']:.3f}  top-1 {row['train_top1']:.1%}" in shown.getvalue()


def test_averaged_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    average = AveragedWeights(model, 0.5)
    expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    for count in range(5):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(1 if tensor.dtype is torch.int64 else torch.randn_like(tensor))
        decay = min(0.5, (1 + count) / (10 + count)) if count else 0.0
        for key, tensor in model.state_dict().items():
            whole = tensor.dtype is torch.int64
            expected[key] = tensor.clone() if whole else decay * expected[key] + (1 - decay) * tensor
        average.update(model)
        for key, tensor in average.module.state_dict().items():
            torch.testing.assert_close(tensor, expected[key])
        again = AveragedWeights(model, 0.5)
        again.load_state_dict(average.state_dict())
        average = again
    assert average.n_averaged == 5
    assert not any(p.requires_grad for p in average.parameters())


class Alone:
    world_size = 1


def test_decisions_come_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    one, decided = Pulse(), []
    for step in range(400):
        now += 1 / 32 if step < 300 else 0.5
        if one.due():
            assert one.decide(Alone(), [step == 62, True]) == [step == 62, True]  # type: ignore[arg-type]
            decided.append(step)
    assert decided[:9] == [0, 2, 6, 14, 30, 62, 94, 126, 158]
    assert decided[-1] - decided[-2] == 2
