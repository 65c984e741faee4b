"""Loggers: the same numbers in each, complete after an interruption, and a clear message for a missing library."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from conftest import run
from equality import events

from senet.cli import main
from senet.data import Data
from senet.errors import UnknownNameError
from senet.training import logs
from senet.training.interruption import Interrupted
from senet.training.module import TrainingModule
from senet.training.recipe import RunOptions

LOSS = "train/step_loss"


def csv_losses(folder: Path) -> list[tuple[int, float]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), float(row[LOSS])) for row in csv.DictReader(file) if row[LOSS]]


@pytest.mark.parametrize("pieces", [1, 2])
def test_every_step_has_its_loss_in_each_logger(few_digits: Data, tmp_path: Path, pieces: int) -> None:
    how = RunOptions(workers=0, logger="csv,tensorboard", log_every=1)
    outcome, _ = run(tmp_path / "run", few_digits, how=how, epochs=2, batch_size=8, grad_accumulation=pieces)
    losses = csv_losses(tmp_path / "run")
    steps = int(outcome.rows[0]["step"])
    assert [step for step, _ in losses] == list(range(1, 2 * steps + 1))
    shown = events(tmp_path / "run")
    assert [step for step, _ in shown[LOSS]] == [step for step, _ in losses]
    assert [value for _, value in shown[LOSS]] == pytest.approx([value for _, value in losses], rel=1e-6)
    for epoch, row in enumerate(outcome.rows):  # batches have one size
        mean = sum(value for _, value in losses[epoch * steps : (epoch + 1) * steps]) / steps
        assert mean == pytest.approx(row["train_loss"], rel=1e-5)
        assert shown["val/loss"][epoch] == (row["step"], pytest.approx(row["val_loss"], rel=1e-6))


def trained(folder: Path, *more: str) -> int:
    asked = "train se_cifar_resnet20 --data digits --limit 96 --batch-size 8 --epochs 2 --model-kwargs depth=8"
    return main(
        [*asked.split(), "--workers", "0", "--save-every", "2", "--log-every", "3", "--out", str(folder), *more]
    )


def test_an_interrupted_run_has_each_entry_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = "tensorboard,csv"
    assert trained(tmp_path / "one", "--logger", names) == 0
    start = TrainingModule.on_train_batch_start

    def stop(self: TrainingModule, *given: Any) -> None:
        if self.trainer.global_step == 19:  # logged up to 18, saved at 18
            raise Interrupted
        start(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_batch_start", stop)
        assert trained(tmp_path / "two", "--logger", names) == 130
    assert main(["train", "--resume", str(tmp_path / "two")]) == 0
    assert events(tmp_path / "two") == events(tmp_path / "one")
    assert csv_losses(tmp_path / "two") == csv_losses(tmp_path / "one")
    assert [step for step, _ in csv_losses(tmp_path / "one")] == list(range(3, 25, 3))


def test_a_missing_library_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    assert trained(tmp_path / "run", "--logger", "wandb") == 2
    assert "--logger wandb needs the package wandb: pip install 'senet[wandb]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_names_of_loggers() -> None:
    assert RunOptions(logger="csv,csv,mlflow").loggers == ("csv", "mlflow")
    assert RunOptions(logger="none").loggers == ()
    with pytest.raises(UnknownNameError, match="tensorboard"):
        RunOptions(logger="csv,tensorbord")


def test_mlflow_without_a_server(few_digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    how = RunOptions(workers=0, logger="mlflow,csv", log_every=2)
    run(tmp_path / "run", few_digits, how=how, epochs=1, batch_size=8)
    outcome, _ = run(tmp_path / "run", few_digits, how=how, epochs=2, batch_size=8, resume=True)
    client = MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("senet").experiment_id])
    assert (found.info.run_name, found.info.status) == ("run", "FINISHED")
    assert found.data.params["batch_size"] == "8"
    assert found.data.metrics["val/loss"] == pytest.approx(outcome.rows[1]["val_loss"])
    history = client.get_metric_history(found.info.run_id, LOSS)
    assert sorted((one.step, one.value) for one in history) == csv_losses(tmp_path / "run")


def test_wandb_offline(few_digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    how = RunOptions(workers=0, logger="wandb", log_every=2)
    for name in ("one", "two"):
        run(tmp_path / name, few_digits, how=how, epochs=1, batch_size=8)
        assert wandb.run is None
    folders = [*tmp_path.glob("*/wandb/offline-run-*")]
    assert len({folder.name for folder in folders}) == len(folders) == 2
    for folder in folders:
        (file,) = folder.glob("run-*.wandb")
        assert LOSS.encode() in file.read_bytes()
