"""Losses with class weights, metrics over classes, and trainings that use them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy

from senet.cli import main
from senet.data import Augmentation, Subset, open_data
from senet.errors import SenetError, UnknownNameError
from senet.inference.class_metrics import overall_metrics
from senet.tasks import task_named
from senet.tasks.class_loss import ClassLoss
from senet.tasks.class_metrics import ClassScores
from senet.training.fit import with_class_weights
from senet.training.recipe import Recipe

CLASSES = ["a", "b", "c"]
WEIGHTS = {"a": 0.5, "b": 1.0, "c": 3.0}


@pytest.fixture
def batch():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, dtype=torch.float64, generator=draws)
    return logits.requires_grad_(), torch.tensor([0, 1, 2, 2, 0, 1, 1])


def test_weighted_cross_entropy_is_a_mean_over_images(batch):
    logits, labels = batch
    weights = torch.tensor(list(WEIGHTS.values()), dtype=torch.float64)
    expected = (weights[labels] * F.cross_entropy(logits, labels, reduction="none")).mean()
    assert torch.allclose(ClassLoss(CLASSES, weights=WEIGHTS)(logits, labels), expected, atol=1e-9)
    hard = ClassLoss(CLASSES, weights=WEIGHTS, label_smoothing=0.1)(logits, labels)
    soft = ClassLoss(CLASSES, weights=WEIGHTS, label_smoothing=0.1)(logits, F.one_hot(labels, 3).double())
    assert torch.allclose(hard, soft, atol=1e-9), "mixed labels are weighed alike"
    halves = [ClassLoss(CLASSES, weights=WEIGHTS)(logits[i : i + 3], labels[i : i + 3]) for i in (0, 3)]
    first = ClassLoss(CLASSES, weights=WEIGHTS)(logits[:6], labels[:6])
    assert torch.allclose(sum(halves) / 2, first, atol=1e-9), "micro-batches add up"


def test_focal_loss_is_its_equation(batch):
    logits, labels = batch
    p = logits.softmax(1)[torch.arange(7), labels]
    assert torch.allclose(ClassLoss(CLASSES, gamma=2.0)(logits, labels), (-((1 - p) ** 2) * p.log()).mean(), atol=1e-9)
    assert torch.autograd.gradcheck(lambda x: ClassLoss(CLASSES, gamma=1.5)(x, labels), (logits,))
    sure = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    ClassLoss(CLASSES, gamma=0.5)(sure, torch.tensor([0])).backward()
    assert torch.isfinite(sure.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_binary_cross_entropy_is_timms(batch, smoothing, threshold):
    logits, labels = batch
    theirs = BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold or None)
    ours = ClassLoss(CLASSES, binary=True, label_smoothing=smoothing, threshold=threshold)
    assert torch.allclose(ours(logits, labels), theirs(logits, labels), atol=1e-9)
    share = torch.tensor([0.85, 0.5, 0.6, 1.0, 0.7, 0.81, 0.3], dtype=torch.float64)
    mixed = mixup_target(labels, 3, share[:, None], smoothing)
    fractions = mixup_target(labels, 3, share[:, None], 0.0)
    assert torch.allclose(ours(logits, fractions.double()), theirs(logits, mixed.double()), atol=1e-9)


def test_a_recipes_loss_and_copies_reach_the_training():
    data, task = open_data("digits"), task_named("classification")
    plain = Recipe(augmentation=Augmentation(crop="none", hflip=0))
    recipe = replace(plain, loss="bce:threshold=0.3", repeated_augmentation=3, sampler="balanced")
    order = task.datasets(data, data.default_preprocessing, recipe)[0].order(0, 0)
    images, labels = np.unique(order % len(data.train), return_counts=True)
    assert len(order) == len(data.train)
    assert labels[0] == 3
    per_class = np.bincount(data.train.labels[images])
    assert per_class.max() - per_class.min() < 30
    objective = task.objective(data.classes, recipe)
    assert (objective.criterion.binary, objective.criterion.threshold) == (True, 0.3)
    assert task.objective(data.classes, plain).criterion.binary is False
    assert task.datasets(data, data.default_preprocessing, plain)[0].order is None


def test_binary_cross_entropy_weighs_images(batch):
    logits, labels = batch
    single = torch.stack([ClassLoss(CLASSES, binary=True)(logits[i : i + 1], labels[i : i + 1]) for i in range(7)])
    weights = torch.tensor(list(WEIGHTS.values()), dtype=torch.float64)
    weighted = ClassLoss(CLASSES, weights=WEIGHTS, binary=True)
    assert torch.allclose(weighted(logits, labels), (weights[labels] * single).mean(), atol=1e-9)
    assert torch.allclose(weighted(logits, F.one_hot(labels, 3).double()), weighted(logits, labels), atol=1e-9)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_metrics_of_training_and_evaluation_are_scikit_learns():
    """Class 3 has no images but is predicted, class 4 is never predicted, class 5 is neither."""
    draws = torch.Generator().manual_seed(1)
    logits = torch.randn(60, 6, generator=draws) - torch.tensor([0, 0, 0, 0, 9, 9])
    labels = torch.tensor([0, 1, 2, 4])[torch.randint(0, 4, (60,), generator=draws)]
    scores = ClassScores(6)
    for part in range(0, 60, 20):
        valid = torch.ones(20, dtype=torch.bool)
        scores.add(logits[part : part + 20], labels[part : part + 20], valid)
        scores.add(logits[:20], labels[:20], ~valid)
    guess = logits.argmax(1)
    assert set(guess.tolist()) == {0, 1, 2, 3}
    wanted = {"balanced_accuracy": balanced_accuracy_score(labels, guess),
              "macro_f1": f1_score(labels, guess, average="macro", zero_division=0)}  # fmt: skip
    confusion = np.zeros((6, 6), dtype=np.int64)
    np.add.at(confusion, (labels.numpy(), guess.numpy()), 1)
    assert overall_metrics(confusion)[0] == pytest.approx(wanted, rel=1e-12)
    assert {name: float(value) for name, value in scores.values().items()} == pytest.approx(wanted, rel=1e-6)


def test_weights_come_from_the_training_images():
    data = open_data("digits")
    few = replace(data, train=Subset(data.train, np.flatnonzero(data.train.labels < 2)[:30]))
    weights = with_class_weights(Recipe(class_weights="balanced"), few).class_weights
    counts = np.bincount(few.train.labels)
    assert weights["0"] == pytest.approx(30 / (2 * counts[0]))
    assert with_class_weights(Recipe(), few) == Recipe()


def test_combinations_are_refused_with_a_reason():
    for changes, message in (
        ({"class_weights": "balanced", "sampler": "balanced"}, "the same imbalance twice"),
        ({"loss": "focal", "mixup": 0.2}, "one class for each image"),
        ({"loss": "focal", "label_smoothing": 0.1}, "one class for each image"),
        ({"loss": "focal:gamma=x"}, "gamma=NUMBER"),
        ({"loss": "focl"}, "focal"),
        ({"loss": "bce:threshold=2"}, "threshold=FRACTION"),
        ({"loss": "bce:gamma=2"}, "threshold=FRACTION"),
        ({"loss": "bce:threshold=0.2", "label_smoothing": 0.1}, "label_smoothing=0.1 has no effect"),
        ({"loss": "cross-entropy:gamma=2"}, "no options"),
        ({"sampler": "balance"}, "balanced"),
        ({"class_weights": {"a": -1.0}}, "at least 0"),
    ):
        with pytest.raises(SenetError, match=message):
            Recipe(**changes)
    with pytest.raises(UnknownNameError, match="balanced-accuracy"):
        task_named("classification").check_recipe(Recipe(metric="balanced-acuracy"))
    with pytest.raises(SenetError, match="is for classification"):
        task_named("segmentation").check_recipe(Recipe(sampler="balanced", augmentation=Augmentation(crop="none")))


def test_a_training_chooses_its_best_epoch_by_balanced_accuracy(tmp_path: Path):
    file = tmp_path / "weights.csv"
    file.write_text("class,weight\n" + "".join(f"{digit},{1 + digit / 10}\n" for digit in range(10)))
    given = ["train", "cifar_resnet20", "--model-kwargs", "depth=1", "--model-kwargs", "widths=[8,16]", "--size", "8",
             "--data", "digits", "--limit", "100", "--batch-size", "25", "--epochs", "2", "--workers", "0", "--logger",
             "none", "--metric", "balanced-accuracy", "--class-weights", str(file), "--mixup", "0.2", "--sampler",
             "balanced"]  # fmt: skip
    assert main([*given, "--out", str(tmp_path / "run"), "--json"]) == 0
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert {"val_balanced_accuracy", "val_macro_f1", "val_top1"} <= set(lines[0].split(","))
    file.unlink()  # the run has the weights
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs", "3", "--json"]) == 0
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 4
