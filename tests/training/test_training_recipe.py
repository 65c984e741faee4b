"""Recipes, optimisers, schedules: pure choices."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import Lamb

from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.training import requirements
from senet.training.checkpointer import TrainingCheckpointer
from senet.training.failures import translate_errors
from senet.training.optim import decayed_parameters, make_optimizer, make_schedule
from senet.training.recipe import Recipe, RunOptions
from senet.training.recipes import RECIPES, fine_tuning, recipe_for, recipe_named
from senet.training.requirements import require_packages
from senet.zoo import create_model


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_survives_json(name):
    recipe = RECIPES[name]
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"batch_size": 0}, {"lr": 0}, {"lr": -1}, {"label_smoothing": 1.0}, {"mixup": -1},
        {"ema_decay": 1.0}, {"grad_accumulation": 3}, {"schedule": "step"}, {"step_factor": 0}, {"seed": -1},
        {"lr": float("inf")}, {"weight_decay": float("nan")}, {"warmup_epochs": float("inf")},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(change):
    with pytest.raises(SenetError, match=next(iter(change))):
        replace(Recipe(), **change)


def test_unknown_names_give_the_nearest():
    with pytest.raises(UnknownNameError, match="'adamw'"):
        Recipe(optimizer="adam")
    with pytest.raises(UnknownNameError, match="'cosine'"):
        Recipe(schedule="cosin")
    with pytest.raises(UnknownNameError, match="'bf16'"):
        RunOptions(precision="bf6")
    with pytest.raises(UnknownNameError, match="'cifar"):
        recipe_named("cifer")


def test_norms_and_biases_are_not_decayed():
    model = create_model("se_cifar_resnet20")
    decayed, free = make_optimizer(model, Recipe(weight_decay=0.1)).param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed["params"])
    assert all("bn" in names[id(p)] or names[id(p)].endswith("bias") or p.ndim == 1 for p in free["params"])
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


def test_lamb_is_timms_and_needs_it(monkeypatch):
    model = create_model("se_cifar_resnet20")
    recipe = Recipe(lr=0.1, batch_size=128).for_optimizer("lamb")
    optimizer = make_optimizer(model, recipe)
    assert (type(optimizer), recipe.lr, recipe.weight_decay) == (Lamb, 0.1 * 0.01, 0.02)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0]
    assert recipe.for_batch_size(512).lr == pytest.approx(2 * recipe.lr), "the square root"
    assert recipe.for_optimizer("adamw").lr == pytest.approx(recipe.lr)
    assert recipe.for_optimizer("sgd").lr == pytest.approx(0.1)
    require_packages(recipe, RunOptions())
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    require_packages(Recipe(), RunOptions())
    with pytest.raises(SenetError, match=r"lamb needs the package timm: pip install 'senet\[timm\]'"):
        require_packages(recipe, RunOptions())


def test_recipes_after_resnet_strikes_back():
    """Wightman et al. 2021 (arXiv 2110.00476), Table 2."""
    a2, a3 = RECIPES["rsb_a2"], RECIPES["rsb_a3"]
    assert (a2.epochs, a2.lr, a2.repeated_augmentation, a2.augmentation.train_size) == (300, 5e-3, 3, 0)
    assert (a3.epochs, a3.lr, a3.repeated_augmentation, a3.augmentation.train_size) == (100, 8e-3, 1, 160)
    for recipe in (a2, a3):
        assert (recipe.batch_size, recipe.optimizer, recipe.weight_decay, recipe.warmup_epochs) == (
            2048,
            "lamb",
            0.02,
            5,
        )
        assert (recipe.schedule, recipe.mixup, recipe.cutmix, recipe.label_smoothing) == ("cosine", 0.1, 1.0, 0.0)
        assert (recipe.ema_decay, recipe.augmentation.random_erasing, recipe.is_binary) == (0, 0, True)


def test_weight_decay_is_decided_before_a_network_is_sharded():
    inner = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    model = torch.nn.Sequential(inner, torch.nn.Linear(4, 2))
    kernels, names = [inner[0].weight, model[1].weight], decayed_parameters(model)
    wrapper = torch.nn.Module()
    wrapper.add_module("_fsdp_wrapped_module", inner)
    model[0] = wrapper
    for p in model.parameters():  # as FSDP does, the parameters being the same objects
        p.data = p.data.flatten()
    decayed, free = make_optimizer(model, Recipe(weight_decay=0.1), names).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(p) for p in kernels]
    assert len(free["params"]) == 4


def rates(recipe, steps):
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = make_optimizer(torch.nn.ParameterList([parameter]), recipe)
    schedule = make_schedule(optimizer, recipe, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@given(
    epochs=st.integers(1, 12),
    per_epoch=st.integers(1, 9),
    warmup=st.floats(0, 15),
    schedule=st.sampled_from(["cosine", "one-cycle", "constant", "step"]),
)
def test_every_schedule_stays_within_its_peak_and_above_nothing(epochs, per_epoch, warmup, schedule):
    recipe = Recipe(
        epochs=epochs, warmup_epochs=warmup, schedule=schedule, lr=0.5, step_epochs=(1, 3) if schedule == "step" else ()
    )
    found = rates(recipe, epochs * per_epoch)
    assert all(0 < rate <= 0.5 + 1e-9 for rate in found)


def test_shapes_of_the_schedules():
    cosine = rates(Recipe(epochs=10, warmup_epochs=2, schedule="cosine", lr=1.0), 100)
    assert cosine[19] == cosine[20] == 1.0
    assert cosine[0] == pytest.approx(1 / 20)
    assert cosine[60] == pytest.approx(0.5)
    assert cosine[-1] < 0.01
    step = rates(Recipe(epochs=10, warmup_epochs=0, schedule="step", step_epochs=(3, 6), lr=1.0), 100)
    assert (step[29], step[30], step[59], step[60]) == pytest.approx((1.0, 0.1, 0.1, 0.01))
    cycle = rates(Recipe(epochs=10, warmup_epochs=3, schedule="one-cycle", lr=1.0), 100)
    assert max(cycle) == pytest.approx(1.0, abs=0.02)
    assert 25 <= cycle.index(max(cycle)) <= 35


def test_stretching_a_recipe():
    paper = RECIPES["imagenet"]
    short = paper.for_epochs(10)
    assert short.step_epochs == (3, 6, 9)
    assert paper.for_batch_size(256).lr == pytest.approx(0.15)
    assert RECIPES["digits"].for_epochs(10).warmup_epochs == pytest.approx(2)


def test_a_recipe_where_the_user_names_none():
    assert recipe_for("digits", (32, 32)) == "digits"
    assert recipe_for("folder:/x", (32, 32)) == "cifar"
    assert recipe_for("folder:/x", (224, 224)) == "photos"
    assert recipe_for("imagenet:/x", (224, 224)) == "imagenet"


def test_weights_that_are_good_already_are_treated_gently():
    for recipe in RECIPES.values():
        gentle = fine_tuning(recipe)
        assert gentle.lr == pytest.approx(recipe.lr / 10)
        assert gentle.epochs <= 10
        assert gentle.warmup_epochs / gentle.epochs == pytest.approx(recipe.warmup_epochs / recipe.epochs)
        assert Recipe.from_dict(gentle.to_dict()) == gentle
    with pytest.raises(SenetError, match="choice of what trains 'gates'"):
        Recipe(train="gates")


@pytest.mark.parametrize(
    ("given", "steps", "seconds"), [("300s", 0, 300), ("5min", 0, 300), ("1h", 0, 3600), ("100", 100, 0), ("0", 0, 0)]
)
def test_how_often_a_state_is_saved(given, steps, seconds):
    run = RunOptions(save_every=given)
    assert (run.save_steps, run.save_seconds) == (steps, seconds)
    for wrong in ("often", "3 s", "-1", ""):
        with pytest.raises(SenetError, match="300s, 5min, or steps: 100"):
            RunOptions(save_every=wrong)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
                      "workers are out of shared memory."),
         "died (pid 7, killed by signal: Bus error); if its shared memory"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "died (pid 7, 8, exited unexpectedly)"),
        (OSError(28, "No space left on device"), "no space left on the device"),
        (CheckpointError("x: can't be written (I/O error: No space left on device (os error 28))"), "no space left"),
        (OSError(30, "Read-only file system", "x/metrics.csv"), "x/metrics.csv: Read-only file system"),
    ],
)  # fmt: skip
def test_what_ends_a_training_from_outside_is_told_plainly(tmp_path, error, said):
    checkpointer = TrainingCheckpointer(tmp_path, lambda *_: None, metrics=(), stop=None, report=print)
    with pytest.raises(SenetError, match=re.escape(said)) as told, translate_errors(checkpointer, "64 x 3 x 32 x 32"):
        raise error
    assert str(told.value).endswith("nothing was saved yet; start again")
    assert len(str(told.value).splitlines()) == 2


def test_what_is_no_such_thing_stays_what_it_is(tmp_path):
    checkpointer = TrainingCheckpointer(tmp_path, lambda *_: None, metrics=(), stop=None, report=print)
    for error in (RuntimeError("a bug"), SenetError("a mistake")):
        with pytest.raises(type(error), match=str(error)), translate_errors(checkpointer, ""):
            raise error
