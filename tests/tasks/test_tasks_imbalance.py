"""Losses with class weights, metrics over classes, and trainings that use them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import balanced_accuracy_score, f1_score

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
