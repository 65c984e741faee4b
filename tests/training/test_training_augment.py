"""Resuming with everything that draws, and states of versions with fewer options."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from equality import assert_equal

from senet.data.augmentation import Augmentation
from senet.errors import CheckpointError
from senet.training.module import RECIPE, TrainingModule
from senet.training.recipe import Recipe, RunOptions

CHANGES = {
    "epochs": 1,
    "optimizer": "lamb",
    "lr": 1e-2,
    "ema_decay": 0.9,
    "loss": "bce:threshold=0.2",
    "mixup": 0.1,
    "cutmix": 1.0,
    "repeated_augmentation": 3,
    "augmentation": Augmentation(
        crop="pad", pad=1, augment="trivial", random_erasing=0.5, erasing_value="noise", train_size=12
    ),
}


def test_a_run_resumed_within_an_epoch_is_the_same_to_the_bit(train, monkeypatch):
    _, whole = train(how=RunOptions(workers=0), **CHANGES)
    original = TrainingModule.training_step

    def killed(self, batch, number):
        if number == 3:  # a state is saved after two steps
            raise RuntimeError("killed")
        return original(self, batch, number)

    monkeypatch.setattr(TrainingModule, "training_step", killed)
    folder = whole.parent / "killed"
    folder.mkdir()
    with pytest.raises(RuntimeError, match="killed"):
        train(how=RunOptions(workers=0, save_every="2"), resume=folder, **CHANGES)
    monkeypatch.setattr(TrainingModule, "training_step", original)
    train(how=RunOptions(workers=0), resume=folder, **CHANGES)
    assert_equal(folder, whole)


def test_states_of_earlier_versions_have_fewer_options():
    def check(recipe: Recipe, state: dict) -> None:
        module = SimpleNamespace(recipe=recipe, trainer=SimpleNamespace(world_size=2), _teacher={})
        TrainingModule._refuse_others(module, {RECIPE: state})

    earlier = Recipe().to_dict()
    for name in ("augment", "train_size", "erasing_value", "erasing_scale", "erasing_ratio"):
        del earlier["augmentation"][name]
    del earlier["repeated_augmentation"]
    check(Recipe(), earlier)
    with pytest.raises(CheckpointError, match="augmentation"):
        check(Recipe(augmentation=Augmentation(augment="rand")), earlier)
    with pytest.raises(CheckpointError, match="repeated_augmentation=1, not 3"):
        check(Recipe(repeated_augmentation=3), earlier)
