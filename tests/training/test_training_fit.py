"""What a training leaves behind, and that it repeats."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from senet.data import Subset, open_data
from senet.data.augmentation import Augmentation
from senet.errors import SenetError
from senet.training.failures import diverged
from senet.training.fit import Network, fit
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import RECIPES
from senet.training.states import TrainingStates
from senet.zoo import create_model, load_model


def weights(folder, name="last"):
    return load_file(folder / f"{name}.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without_time(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


def test_it_learns_and_leaves_a_usable_network(train, few_digits):
    outcome, folder = train(epochs=15, lr=0.2)
    assert outcome.rows[-1]["train_loss"] < outcome.rows[0]["train_loss"] / 2
    assert outcome.best["val_top1"] > 0.5
    for name in ("last", "best"):
        loaded = load_model(folder / f"{name}.safetensors")
        assert loaded.classes == few_digits.classes
        assert loaded.preprocessing.size == (8, 8)
        assert not loaded.model.training
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((folder / "tensorboard").iterdir())
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    assert [int(r["epoch"]) for r in rows] == list(range(1, 16))
    assert float(rows[-1]["val_top1"]) == outcome.rows[-1]["val_top1"]
    best = json.loads((folder / "best.json").read_text())
    assert (best["data"]["train"], best["data"]["val"]) == (len(few_digits.train), len(few_digits.val))
    assert best["data"]["digest"] == few_digits.digest
    assert best["metrics"]["top1"] == max(float(r["val_top1"]) for r in rows)
    assert not [p for p in folder.iterdir() if ".tmp" in p.name]


def test_the_kept_network_scores_what_its_description_says(train, few_digits):
    from senet.inference import evaluate

    _, folder = train(epochs=3, lr=0.1)
    loaded = load_model(folder)
    result = evaluate(loaded, few_digits.val, few_digits.classes, workers=0)
    assert result.top1 == pytest.approx(loaded.metadata.metrics["top1"], abs=1e-6)
    assert result.loss == pytest.approx(loaded.metadata.metrics["loss"], abs=1e-4)
    assert sum(map(sum, result.confusion)) == result.images == len(few_digits.val)


def test_same_seed_same_bits_whatever_the_workers(train):
    first, folder = train(mixup=0.2, cutmix=0.5, augmentation=Augmentation(crop="pad", pad=1, hflip=0, rotation=10))
    for workers in (0, 2):
        again, other = train(
            how=RunOptions(workers=workers),
            mixup=0.2,
            cutmix=0.5,
            augmentation=Augmentation(crop="pad", pad=1, hflip=0, rotation=10),
        )
        assert equal(weights(folder), weights(other))
        assert without_time(first.rows) == without_time(again.rows)
    _, seeded = train(seed=1)
    assert not equal(weights(folder), weights(seeded))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "lr": 1e-3},
        {"schedule": "step", "step_epochs": (1,)},
        {"schedule": "one-cycle"},
        {"schedule": "constant"},
        {"label_smoothing": 0.1},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"clip_grad_norm": 0.01},
        {"grad_accumulation": 2},
        {"ema_decay": 0.9},
        {"weight_decay": 0.0},
        {"augmentation": Augmentation(crop="random-resized", hflip=0, random_erasing=0.5)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_part_of_a_recipe_has_an_effect(train, plain, changes):
    outcome, folder = train(**changes)
    assert np.isfinite(outcome.rows[-1]["val_loss"])
    assert not equal(weights(plain[1]), weights(folder))


@pytest.mark.parametrize("how", [RunOptions(workers=0, precision="bf16"), RunOptions(workers=0, channels_last=False)])
def test_how_it_runs_changes_little(train, plain, how):
    other, _ = train(how=how)
    assert other.rows[-1]["train_loss"] == pytest.approx(plain[0].rows[-1]["train_loss"], rel=0.05)


def test_recomputing_maps_changes_nothing(train, plain):
    _, folder = train(how=RunOptions(workers=0, grad_checkpointing=True))
    assert equal(weights(plain[1]), weights(folder))


@pytest.mark.slow
def test_compiled(train, plain):
    other, folder = train(how=RunOptions(workers=0, compile=True))
    assert other.rows[-1]["train_loss"] == pytest.approx(plain[0].rows[-1]["train_loss"], rel=0.05)
    assert not [k for k in weights(folder) if "_orig_mod" in k]
    load_model(folder)


def test_fp16_trains_also_on_a_processor(train, plain):
    outcome, _ = train(how=RunOptions(workers=0, precision="fp16"))
    assert outcome.rows[-1]["train_loss"] == pytest.approx(plain[0].rows[-1]["train_loss"], rel=0.05)


def test_averaged_weights_are_what_is_validated_and_kept(train, few_digits):
    _, folder = train(ema_decay=0.5, epochs=1)
    state = torch.load(TrainingStates(folder).all()[0].path, weights_only=True)["state_dict"]
    kept = weights(folder)
    average = {k[len("average.module.") :]: v for k, v in state.items() if k.startswith("average.module.")}
    own = {k[len("model.") :]: v for k, v in state.items() if k.startswith("model.")}
    assert equal(kept, average)
    assert not equal(kept, own)


def test_patience_ends_a_training_that_no_longer_improves(train):
    outcome, _ = train(epochs=30, lr=1e-6, patience=2, warmup_epochs=0)
    assert len(outcome.rows) < 30


def test_a_loss_that_is_no_number_stops_with_advice_and_keeps_the_last_good_network(train):
    with pytest.raises(SenetError, match=r"the (loss became (nan|inf)|weights became non-finite).*--lr"):
        train(lr=1e6, schedule="constant", warmup_epochs=0, epochs=20)


@pytest.mark.parametrize("frozen", [False, True])
def test_it_names_frozen_norms_where_they_are_what_bounds_nothing(frozen):
    trainer = SimpleNamespace(
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.02}])],
        lightning_module=SimpleNamespace(recipe=Recipe(freeze_bn=frozen)),
        global_step=7,
    )
    said = str(diverged("the loss became nan", trainer))
    assert said.startswith("the loss became nan at step 7 (learning rate 0.02); try a smaller --lr")
    assert ("--freeze-bn" in said) == frozen


def test_more_classes_than_outputs_is_refused_before_training(few_digits, tmp_path):
    model = create_model("cifar_resnet20", in_channels=1, num_classes=3)
    network = Network(model, "cifar_resnet20", {}, few_digits.default_preprocessing)
    with pytest.raises(SenetError, match=r"returns \(1, 3\) for one image instead of \(1, 10\)"):
        fit(network, few_digits, Recipe(epochs=1), tmp_path, run=RunOptions(workers=0))
    assert not list(tmp_path.iterdir())


def test_a_batch_larger_than_the_set_becomes_the_set(train):
    outcome, _ = train(batch_size=4096)
    assert outcome.rows[-1]["step"] == 2


def test_broken_images_are_skipped_told_once_and_counted(train, tmp_path):
    from senet.data import write_images

    digits = open_data("digits")
    folder = tmp_path / "images"
    for part, source in (("train", digits.train), ("val", digits.val)):
        write_images(Subset(source, np.arange(100)), folder / part, classes=digits.classes)
    victims = [sorted((folder / part).glob("*/*.png"))[0] for part in ("train", "val")]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:60])
    data = replace(open_data(f"folder:{folder}"), default_preprocessing=digits.default_preprocessing)
    outcome, _ = train(data=data, epochs=3)
    assert outcome.corrupt_images == "2 corrupt images skipped"


@pytest.mark.parametrize("name", sorted(RECIPES.keys() - {"detection", "coco", "segmentation"}))
def test_every_recipe_runs(train, name):
    recipe = RECIPES[name].for_epochs(1).for_batch_size(32)
    changes = {k: getattr(recipe, k) for k in Recipe.__dataclass_fields__}
    changes["lr"] = min(recipe.lr, 0.05)
    if recipe.augmentation.train_size:
        changes["augmentation"] = replace(recipe.augmentation, train_size=16)
    outcome, _ = train(**changes)
    assert np.isfinite(outcome.rows[-1]["val_loss"])
