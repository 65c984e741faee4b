"""Multi-label classifiers: the loss, the metrics over labels, the thresholds, and every command that uses them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve
from torchvision.ops import sigmoid_focal_loss

import senet
from senet.cli import main
from senet.data import open_data
from senet.data.balance import positive_weights
from senet.data.images import load_image
from senet.data.labels import MULTI_LABEL
from senet.errors import CheckpointError, DataError, SenetError
from senet.gates.statistics import GateStatistics
from senet.inference import evaluate, evaluate_labels
from senet.inspection import inspect
from senet.preprocessing import Preprocessing
from senet.tasks import CLASSIFIERS, TASKS, task_named
from senet.tasks.class_metrics import macro_f1
from senet.tasks.label_loss import LabelLoss
from senet.tasks.label_metrics import (
    LabelScores,
    average_precisions,
    best_thresholds,
    label_sums,
    mean_average_precision,
    micro_f1,
    precision_curve,
)
from senet.training.fit import with_class_weights
from senet.training.interruption import Interrupted
from senet.training.module import TrainingModule
from senet.training.recipe import Recipe
from senet.weights import CheckpointMetadata, read_checkpoint, write_checkpoint

CLASSES = ["blue", "green", "red"]


def test_the_task_is_that_of_the_data():
    assert MULTI_LABEL in TASKS
    assert task_named(MULTI_LABEL).name == MULTI_LABEL
    assert [name for name in TASKS if CheckpointMetadata(
        model="m", classes=(), preprocessing=Preprocessing(), task=name).is_classifier] == [*CLASSIFIERS]  # fmt: skip


# The loss.


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, dtype=torch.float64, generator=draws)
    return logits.requires_grad_(), (torch.rand(7, 3, generator=draws) < 0.4).double()


def test_the_loss_is_its_equation(batch):
    logits, targets = batch
    weights = {"blue": 0.5, "green": 1.0, "red": 3.0}
    p, w = logits.sigmoid(), torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    smooth = 0.9 * targets + 0.05
    expected = -(w * smooth * p.log() + (1 - smooth) * (1 - p).log()).mean()
    assert torch.allclose(
        LabelLoss(CLASSES, weights=weights, label_smoothing=0.1)(logits, targets), expected, atol=1e-9
    )
    assert torch.allclose(
        LabelLoss(CLASSES)(logits, targets), F.binary_cross_entropy_with_logits(logits, targets), atol=1e-9
    )


def test_the_focal_loss_is_torchvisions(batch):
    logits, targets = batch
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2.0)
    assert torch.allclose(LabelLoss(CLASSES, gamma=2.0)(logits, targets), expected.mean(), atol=1e-9)
    weighed = LabelLoss(CLASSES, gamma=2.0, weights=dict.fromkeys(CLASSES, 3.0))(logits, targets)
    assert torch.allclose(weighed, (expected * torch.where(targets > 0, 3.0, 1.0)).mean(), atol=1e-9)
    assert torch.autograd.gradcheck(lambda x: LabelLoss(CLASSES, gamma=1.5)(x, targets), (logits,))
    sure = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    LabelLoss(CLASSES, gamma=0.5)(sure, torch.tensor([[1.0, 0.0, 1.0]])).backward()
    assert torch.isfinite(sure.grad).all()


# The metrics.


@pytest.fixture(scope="module")
def scored() -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and truth of 300 images: label 2 has ties, label 4 has no image, label 5 has every image."""
    draws = torch.Generator().manual_seed(0)
    probabilities = torch.rand(300, 6, generator=draws)
    probabilities[:, 2] = (probabilities[:, 2] * 5).round() / 5
    truth = torch.rand(300, 6, generator=draws) < 0.5 * probabilities + 0.05
    truth[:, 4], truth[:, 5] = False, True
    return probabilities, truth


def test_average_precision_is_scikit_learns(scored):
    probabilities, truth = scored
    found = average_precisions(probabilities, truth)
    present = [0, 1, 2, 3, 5]
    expected = [average_precision_score(truth[:, k], probabilities[:, k]) for k in present]
    assert found[present] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(found[4])
    assert mean_average_precision(probabilities, truth) == pytest.approx(np.mean(expected), abs=1e-6)
    assert np.isnan(mean_average_precision(probabilities[:, 4:5], truth[:, 4:5]))
    precision, recall, _ = precision_recall_curve(truth[:, 2], probabilities[:, 2])
    steps = np.linspace(0, 1, 101)
    assert precision_curve(probabilities[:, 2], truth[:, 2]) == pytest.approx(
        [precision[:-1][recall[:-1] >= step - 1e-6].max() for step in steps], abs=1e-4
    )


def test_thresholds_have_the_highest_f1_and_lie_between_probabilities(scored):
    probabilities, truth = scored
    thresholds = best_thresholds(probabilities, truth)
    for k in (0, 1, 2, 3):
        predicted = probabilities[:, k] >= probabilities[:, k].unique()[:, None]
        best = (2 * (predicted & truth[:, k]).sum(1) / (predicted.sum(1) + truth[:, k].sum())).max()
        assert f1_score(truth[:, k], probabilities[:, k].double() >= thresholds[k]) == pytest.approx(
            float(best), abs=1e-6
        )
    distance = (probabilities.double() - torch.tensor(thresholds)).abs().amin(0)
    assert (distance > 1e-6).all(), "rounding moves no image over a threshold"
    assert thresholds[4] == 0.5
    assert 0 < thresholds[5] < probabilities[:, 5].min()
    sums = label_sums(probabilities, truth, thresholds).sum(0)
    predicted = probabilities.double() >= torch.tensor(thresholds)
    assert micro_f1(sums) == pytest.approx(f1_score(truth, predicted, average="micro"))
    assert macro_f1(sums) == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0))


def test_sums_leave_out_stand_ins_and_add_up_over_processes(scored):
    probabilities, truth = scored
    logits, parts = probabilities.logit(1e-6), []
    for rank in range(2):
        scores = LabelScores()
        own = slice(rank, None, 2)
        for images, targets in zip(logits[own].split(40), truth[own].split(40), strict=True):
            stand_in = torch.full((1, 6), 9.0)
            valid = torch.tensor([True] * len(images) + [False])
            scores.add(torch.cat([images, stand_in]), torch.cat([targets.float(), torch.zeros(1, 6)]), valid)
        parts.append(scores)
    parts[0].merge_state(parts[1])
    values, thresholds = parts[0].values()
    assert len(parts[0].compute()[0]) == 300
    assert float(values["map"]) == pytest.approx(mean_average_precision(probabilities, truth), abs=1e-6)
    assert thresholds == pytest.approx(best_thresholds(probabilities, truth), abs=1e-6)


def test_positive_images_of_rare_labels_weigh_more():
    assert positive_weights({"a": 10, "b": 0, "c": 40}, 40) == {"a": 3.0, "b": 1.0, "c": 1.0}


# Trainings on files.


def write_colours(root: Path, *, extra: str = "") -> Path:
    """Images with a brighter channel for each label; every sixth has no label."""
    draw = np.random.RandomState(0)
    root.mkdir()
    with (root / "list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "labels", "split"])
        for split, count in (("train", 40), ("val", 25)):
            for number in range(count):
                present = draw.rand(3) < 0.5 if number % 6 else np.zeros(3, dtype=bool)
                pixels = draw.randint(0, 90, (8, 8, 3)) + 90 * present[::-1]
                name = f"{split}{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(root / name)
                labels = [name for name, there in zip(CLASSES, present, strict=True) if there]
                rows.writerow([name, ";".join([*labels, *([extra] if extra and number == 1 else [])]), split])
    return root / "list.csv"


NETWORK = [
    "se_cifar_resnet20", "--model-kwargs", "depth=1", "--model-kwargs", "widths=[16,32]", "--size", "8", "--lr", "0.1",
    "--batch-size", "8", "--crop", "none", "--hflip", "0", "--workers", "0", "--logger", "none",
]  # fmt: skip


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> Path:
    return write_colours(tmp_path_factory.mktemp("colours") / "data")


def train(colours: Path, folder: Path, *more: str) -> int:
    return main(["train", *NETWORK, "--data", f"csv:{colours}", "--out", str(folder), *more])


@pytest.fixture(scope="module")
def run(colours, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "colours"
    assert train(colours, folder, "--epochs", "4", "--class-weights", "balanced") == 0
    return folder


@pytest.fixture(scope="module")
def data(colours):
    return open_data(f"csv:{colours}")


def printed(capsys: Any, *arguments: object) -> Any:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


def test_training_learns_and_keeps_the_thresholds_of_each_epoch(run, data):
    _, metadata = read_checkpoint(run)
    assert (metadata.task, metadata.classes, len(metadata.thresholds)) == ("multi-label", ("blue", "green", "red"), 3)
    assert metadata.metrics["map"] > 0.8, "chance is 0.45"
    assert json.loads((run / "run.json").read_text())["task"] == "multi-label"
    loaded = senet.load_model(run)
    result = evaluate_labels(loaded, data.val, data.classes, workers=0)
    found = {key: getattr(result, key) for key in ("map", "micro_f1", "macro_f1", "loss")}
    assert found == pytest.approx(metadata.metrics, abs=1e-5), "training and evaluation measure the same"
    assert [of.threshold for of in result.classes.values()] == list(metadata.thresholds)
    broken = run.parent / "broken.safetensors"
    write_checkpoint(broken, read_checkpoint(run)[0], replace(metadata, thresholds=(0.5, 2.0, 0.5)))
    with pytest.raises(CheckpointError, match="thresholds"):
        read_checkpoint(broken)


def test_class_weights_are_the_ratio_of_images(data):
    recipe = with_class_weights(Recipe(class_weights="balanced"), data)
    with_label = data.train.labels.sum(0)
    assert list(recipe.class_weights.values()) == pytest.approx((len(data.train) - with_label) / with_label)


def test_evaluation_says_metrics_intervals_and_labels(run, colours, data, capsys, tmp_path):
    found = printed(capsys, "evaluate", run, "--data", f"csv:{colours}", "--json", "--workers", "0")
    assert found["intervals"].keys() == {"map", "micro_f1", "macro_f1", "loss"}
    low, high = found["intervals"]["map"]
    assert 0 < low <= found["map"] <= high <= 1
    assert {"average_precision", "threshold", "precision", "recall", "f1"} <= found["classes"]["red"].keys()
    assert main(["evaluate", str(run), "--data", f"csv:{colours}", "--per-class", "--workers", "0"]) == 0
    text = capsys.readouterr().out
    assert "mAP" in text
    assert f"{found['classes']['green']['threshold']:.4f}" in text


def test_views_are_averaged_label_by_label(run, colours, data, capsys, tmp_path):
    """The report takes the same test images. A colour's mirror image has the same labels, and both have a say."""
    given = ("evaluate", run, "--data", f"csv:{colours}", "--json", "--workers", "0", "--tta", "flip")
    found = printed(capsys, *given)
    document = printed(capsys, *given, "--report", tmp_path / "report")
    assert document["map"] == found["map"]
    loaded = senet.load_model(run)
    paths = [data.val.locate(index) for index in range(4)]
    images = [load_image(path) for path in paths]
    views = [loaded.predict_proba(side) for side in (images, [ImageOps.mirror(image) for image in images])]
    [row, *_] = printed(capsys, "predict", *paths, "--checkpoint", run, "--json", "--score-threshold", "0",
                        "--workers", "0", "--tta", "flip")  # fmt: skip
    expected = dict(zip(data.classes, ((views[0] + views[1]) / 2)[0].tolist(), strict=True))
    assert {label["label"]: label["probability"] for label in row["labels"]} == pytest.approx(expected, abs=1e-6)


def test_a_soup_is_measured_by_its_task(run, colours, capsys, tmp_path):
    files = [run / "best.safetensors", run / "last.safetensors"]
    out = tmp_path / "soup.safetensors"
    found = printed(capsys, "average", *files, "--soup", "--data", f"csv:{colours}", "--out", out,
                    "--no-recompute-statistics", "--workers", "0", "--json")  # fmt: skip
    again = printed(capsys, "evaluate", out, "--data", f"csv:{colours}", "--json",
                    "--workers", "0")  # fmt: skip
    assert found["metrics"]["map"] == pytest.approx(again["map"])


def test_the_calibration_resamples_images_not_labels():
    """Ten labels and ten groups: each group of a jackknife must have all labels."""
    from senet.inference.class_metrics import calibration

    shares, truth = np.random.RandomState(0).rand(60, 10), np.zeros((60, 10), dtype=bool)
    truth[:, 0] = True
    found = calibration(shares, truth)
    assert found.ece == pytest.approx(calibration(shares.ravel(), truth.ravel()).ece)
    assert (
        found.interval[1] - found.interval[0]
        < 0.1
        < np.subtract(*calibration(shares.ravel(), truth.ravel()).interval[::-1])
    )


def test_prediction_gives_the_labels_above_their_thresholds(run, colours, data, capsys, tmp_path):
    paths = [data.val.locate(index) for index in range(len(data.val))]
    loaded = senet.load_model(run)
    rows = printed(capsys, "predict", *paths, "--checkpoint", run, "--json", "--workers", "0")
    probabilities = loaded.predict_proba(paths)
    assert not torch.allclose(probabilities.sum(1), torch.ones(len(paths))), "each label has its own"
    for row, own, prediction in zip(rows, probabilities.tolist(), loaded.predict(paths), strict=True):
        pairs = zip(data.classes, own, loaded.metadata.thresholds, strict=True)
        expected = {name: p for name, p, least in pairs if p >= least}
        assert prediction.labels == expected
        assert {label["label"]: label["probability"] for label in row["labels"]} == pytest.approx(expected)
    assert any(not row["labels"] for row in rows)
    assert any(len(row["labels"]) > 1 for row in rows)
    everything = printed(
        capsys, "predict", paths[0], "--checkpoint", run, "--json", "--score-threshold", "0", "--workers", "0"
    )
    assert len(everything[0]["labels"]) == 3
    out = tmp_path / "rows.csv"
    assert main(["predict", *paths, str(tmp_path / "none.png"), "--checkpoint", str(run), "--out", str(out)]) == 0
    table = list(csv.DictReader(out.open(newline="")))
    assert [row["labels"].split(";") for row in table[:-1]] == [
        [label["label"] for label in row["labels"]] or [""] for row in rows
    ]
    assert table[-1]["error"] == "no such file"


@pytest.mark.parametrize(
    ("form", "name", "package"),
    [("torch", "x.pt2", "torch"), pytest.param("onnx", "x.onnx", "onnxruntime", marks=pytest.mark.slow)],
)
def test_an_exported_file_predicts_the_same_labels(run, data, capsys, tmp_path, form, name, package):
    pytest.importorskip(package)
    file = tmp_path / name
    report = printed(capsys, "export", run, "--format", form, "--out", file, "--size", "8", "--json")
    loaded, made = senet.load_model(run), senet.deploy.load_exported(file, runtime=package)
    assert (made.metadata.task, made.metadata.thresholds) == ("multi-label", loaded.metadata.thresholds)
    assert report["metadata"]["thresholds"] == list(loaded.metadata.thresholds)
    texts = senet.deploy.loading.format_of(file).texts(file)
    assert json.loads(texts["activation"]) == "sigmoid"
    paths = [data.val.locate(index) for index in range(len(data.val))]
    before, after = loaded.predict(paths), made.predict(paths)
    assert [list(one.labels) for one in after] == [list(one.labels) for one in before]
    one = evaluate_labels(made, data.val, data.classes, workers=0, device=torch.device("cpu"))
    assert one.map == pytest.approx(evaluate_labels(loaded, data.val, data.classes, workers=0).map, abs=1e-6)


def test_a_resumed_run_is_the_same_bit_for_bit(colours, tmp_path, monkeypatch):
    more = ("--epochs", "2", "--mixup", "0.2", "--cutmix", "0.5", "--label-smoothing", "0.1", "--ema-decay", "0.9",
            "--save-every", "2", "--metric", "macro-f1")  # fmt: skip
    assert train(colours, tmp_path / "one", *more) == 0
    start = TrainingModule.on_train_batch_start

    def stop(self: TrainingModule, *given: Any) -> None:
        if self.trainer.global_step == 7:
            raise Interrupted
        start(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "on_train_batch_start", stop)
        assert train(colours, tmp_path / "two", *more) == 130
    assert main(["train", "--resume", str(tmp_path / "two")]) == 0
    first, second = (json.loads((tmp_path / name / "last.json").read_text()) for name in ("one", "two"))
    assert first == second
    assert len(first["thresholds"]) == 3


def test_a_classifier_of_one_class_starts_a_training(colours, data, tmp_path, capsys):
    options = {"depth": 1, "widths": [16, 32]}
    network = senet.create_model("se_cifar_resnet20", num_classes=3, **options)
    images = replace(Preprocessing(), size=(8, 8))
    metadata = CheckpointMetadata(
        model="se_cifar_resnet20", options=options, classes=data.classes, preprocessing=images
    )
    path = tmp_path / "single.safetensors"
    write_checkpoint(path, network.state_dict(), metadata)
    single = senet.load_model(path)
    with pytest.raises(DataError, match="labelled for multi-label"):
        evaluate(single, data.val, data.classes)
    with pytest.raises(SenetError, match="is a network for classification, not for multi-label"):
        evaluate_labels(single, data.val, data.classes)
    for command in (["evaluate", path], ["inspect", path], ["export", path, "--format", "torch", "--out", "x.pt2"]):
        assert main([*map(str, command), "--data", f"csv:{colours}"]) == 2
        assert "is for multi-label; " in capsys.readouterr().err.replace("\n", " ")
    train_options = [
        "train",
        "--checkpoint",
        str(path),
        "--data",
        f"csv:{colours}",
        "--epochs",
        "1",
        "--batch-size",
        "8",
    ]
    assert main([*train_options, "--workers", "0", "--logger", "none", "--out", str(tmp_path / "run")]) == 0
    assert "the classifier is new: the weights are for classification" in capsys.readouterr().err
    assert senet.load_model(tmp_path / "run").metadata.task == "multi-label"


def test_what_does_not_fit_is_refused(run, colours, tmp_path, capsys):
    def refused(*arguments: object) -> str:
        capsys.readouterr()
        assert main([*map(str, arguments)]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "digits is for classification" in refused("evaluate", run, "--data", "digits")
    assert "digits is for --task classification" in refused("train", "--checkpoint", run, "--data", "digits")
    other = write_colours(tmp_path / "other", extra="violet")
    assert "1 class unknown to the network, the first: 'violet'" in refused("evaluate", run, "--data", f"csv:{other}")
    training = ["train", *NETWORK, "--data", f"csv:{colours}", "--out", tmp_path / "x", "--epochs", "1"]
    assert "class_weights='balanced'" in refused(*training, "--sampler", "balanced")
    assert "metric for multi-label" in refused(*training, "--metric", "top1")
    assert "--topk is for one class" in refused("predict", colours.parent, "--checkpoint", run, "--topk", "2")
    lines = [line.split(",") for line in colours.read_text().splitlines()]
    empty = colours.parent / "empty.csv"
    rows = [[path, "" if split == "val" else labels, split] for path, labels, split in lines]
    empty.write_text("\n".join(map(",".join, rows)))
    training[training.index(f"csv:{colours}")] = f"csv:{empty}"
    assert "no validation image of" in refused(*training)


def test_gates_by_label_count_an_image_for_each_of_its_labels(data, colours):
    torch.manual_seed(0)
    model = senet.create_model("se_cifar_resnet20", num_classes=3, depth=1).eval()
    images = torch.rand(4, 3, 8, 8)
    targets = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]])
    result = inspect(model, [(images, targets)], CLASSES, outputs=CLASSES, examples=2)
    assert (result.images, result.class_images) == (3, (1, 1, 2))
    pairs = [(images[[0, 2, 0, 3]], torch.tensor([0, 1, 2, 2]))]
    expected = inspect(model, pairs, CLASSES, outputs=CLASSES, examples=0)
    for block, other in zip(result.blocks, expected.blocks, strict=True):
        assert (block.mean, block.specificity) == pytest.approx((other.mean, other.specificity))
    with torch.no_grad():
        shares = model(images).sigmoid()
    assert result.examples[0].probability == pytest.approx(float(shares[0].max()), abs=1e-5)
    assert GateStatistics(2, 3).counts.tolist() == [0, 0, 0]


def test_a_comparison_measures_map(colours, tmp_path, capsys):
    words = ["compare", *NETWORK, "--data", f"csv:{colours}", "--epochs", "1", "--seeds", "1", "--timing-seconds", "0"]
    found = printed(capsys, *words, "--out", tmp_path / "compared", "--json")
    assert (found["task"], found["metric"]["key"]) == ("multi-label", "map")
    assert 0 < found["variants"]["se"]["metric_percent"]["mean"] <= 100


@pytest.mark.slow
def test_two_processes_count_each_image_once(colours, tmp_path):
    """25 validation images, one of them unreadable, over two processes: the metrics are those of one process."""
    from processes import start

    (colours.parent / "val3.png").write_bytes(b"no image")
    options = [
        "train",
        *NETWORK,
        "--data",
        f"csv:{colours}",
        "--epochs",
        "1",
        "--devices",
        "2",
        "--out",
        tmp_path / "run",
    ]
    start(*options, log=tmp_path / "log").finish()
    data, (_, metadata) = open_data(f"csv:{colours}"), read_checkpoint(tmp_path / "run")
    result = evaluate_labels(senet.load_model(tmp_path / "run"), data.val, data.classes, workers=0, corrupt="skip")
    assert result.images == 24
    found = {key: getattr(result, key) for key in ("map", "micro_f1", "macro_f1", "loss")}
    assert found == pytest.approx(metadata.metrics, abs=1e-5)
