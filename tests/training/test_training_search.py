"""Callbacks of the user, and the search with Optuna that uses them."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

from senet.training import DataOptions, Job, ModelInitialization, recipe_named

SCRIPT = Path(__file__).parents[2] / "examples" / "optuna_search.py"


class Stop(Exception):  # noqa: N818
    pass


class Watcher(Callback):
    """Keeps the accuracy of each epoch, and stops a run at one of them."""

    def __init__(self, stop_at=None):
        self.seen = []
        self.stop_at = stop_at

    def on_validation_end(self, trainer, module):
        self.seen.append(float(trainer.callback_metrics["val/top1"]))
        if len(self.seen) == self.stop_at:
            raise Stop


def test_a_callback_sees_each_epoch_and_can_stop_a_run_that_continues(tmp_path):
    job = Job(
        source=DataOptions(data="digits", limit=64),
        network=ModelInitialization(model="se_cifar_resnet20", options={"depth": 8}),
        recipe=replace(recipe_named("digits"), epochs=2, batch_size=32),
    )
    stopped, rest = Watcher(stop_at=2), Watcher()
    with pytest.raises(Stop):
        job.start(tmp_path / "run", callbacks=[stopped])
    outcome = job.resume(tmp_path / "run", callbacks=[rest])
    assert len(outcome.rows) == 2
    assert stopped.seen == [row["val_top1"] for row in outcome.rows], "the second epoch ends alike"
    assert rest.seen == stopped.seen[-len(rest.seen) :]


@pytest.mark.slow
def test_the_search_is_continued_with_its_killed_trial(tmp_path, monkeypatch, capsys):
    optuna = pytest.importorskip("optuna")
    pytest.importorskip("optuna_integration")
    monkeypatch.chdir(tmp_path)
    options = ["--data", "digits", "--model", "se_cifar_resnet20", "--recipe", "digits", "--epochs", "1"]
    argv = [str(SCRIPT), *options, "--out", "search", "--grace", "1"]

    def search(trials):
        monkeypatch.setattr(sys, "argv", [*argv, "--trials", str(trials)])
        runpy.run_path(str(SCRIPT), run_name="__main__")
        return optuna.load_study(study_name="senet", storage=f"sqlite:///{tmp_path}/search/study.db")

    study = search(1)
    assert "--weight-decay" in capsys.readouterr().out
    # A trial that a killed process left behind: running, without a heartbeat.
    killed = study.ask()
    params = study.best_params
    for name, distribution in study.best_trial.distributions.items():
        study._storage.set_trial_param(
            killed._trial_id, name, distribution.to_internal_repr(params[name]), distribution
        )
    from optuna.storages import RDBStorage

    storage = RDBStorage(f"sqlite:///{tmp_path}/search/study.db", heartbeat_interval=1, grace_period=1)
    storage.record_heartbeat(killed._trial_id)
    __import__("time").sleep(3)
    study = search(3)
    retried = [trial for trial in study.trials if trial.system_attrs.get("failed_trial") == killed.number]
    assert [trial.state for trial in retried] == [optuna.trial.TrialState.COMPLETE]
    assert retried[0].params == params
    assert (tmp_path / "search" / f"trial-{killed.number:03d}" / "result.json").is_file()
    assert not (tmp_path / "search" / f"trial-{retried[0].number:03d}").exists()
