"""The numbers of a report against scikit-learn and torchmetrics, its files, and the folders that it refuses."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from report_helpers import ABOUT, CLASSES
from torchmetrics.classification import MulticlassCalibrationError

import senet.reports.classification as module
from senet.errors import SenetError
from senet.inference.class_metrics import calibration, class_metrics, overall_metrics
from senet.reports import check_report, report_classification
from senet.tasks.intervals import bootstrap


@pytest.fixture(scope="module")
def answers() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, predictions and the confusion matrix: the last class is never present, the one before never predicted."""
    draw = np.random.RandomState(0)
    true = draw.choice(5, 200, p=[0.5, 0.2, 0.2, 0.1, 0])
    predicted = np.where(draw.rand(200) < 0.6, true, draw.choice(5, 200))
    predicted[predicted == 3] = 4
    confusion = np.zeros((5, 5), dtype=np.int64)
    np.add.at(confusion, (true, predicted), 1)
    return true, predicted, confusion


def test_metrics_equal_scikit_learns(answers):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn isn't installed")
    true, predicted, confusion = answers
    table = metrics.precision_recall_fscore_support(true, predicted, labels=range(5), zero_division=np.nan)
    for name, wanted in zip(("precision", "recall", "f1"), table, strict=False):
        found = [getattr(one, name) for one in class_metrics(confusion)]
        assert [np.nan if value is None else value for value in found] == pytest.approx(wanted.tolist(), nan_ok=True)
    overall, intervals = overall_metrics(confusion)
    seen = true != 4
    balanced = np.mean([np.mean(predicted[true == k] == k) for k in set(true[seen])])
    assert overall["balanced_accuracy"] == pytest.approx(balanced)
    assert overall["macro_f1"] == pytest.approx(metrics.f1_score(true, predicted, average="macro", zero_division=0))
    for name, (low, high) in intervals.items():
        assert low < overall[name] < high


def test_intervals_are_those_of_resampled_images(answers):
    true, predicted, confusion = answers
    of_images = np.zeros((len(true), 3, 5))
    for row, t, p in zip(of_images, true, predicted, strict=True):
        row[0, t], row[1, t], row[2, p] = t == p, 1, 1

    def recall(sums: np.ndarray) -> np.ndarray:
        right, there = sums[:, 0, :4], sums[:, 1, :4]
        return (right / there).mean(-1)

    wanted = bootstrap(of_images, recall)
    assert overall_metrics(confusion)[1]["balanced_accuracy"] == pytest.approx(wanted, abs=0.01)


def test_the_calibration_error_equals_torchmetrics():
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(300, 4), torch.randint(4, (300,))
    confidence, predicted = logits.softmax(1).max(1)
    found = calibration(confidence.tolist(), (predicted == labels).tolist())
    assert found.ece == pytest.approx(
        MulticlassCalibrationError(4, n_bins=15)(logits.softmax(1), labels).item(), abs=1e-6
    )
    assert sum(one.images for one in found.bins) == 300
    assert found.interval is not None
    assert found.interval[0] < found.ece < found.interval[1]


def test_probability_one_is_in_the_last_bin():
    found = calibration([1.0, 1.0, 0.0], [True, False, False])
    assert [one.images for one in found.bins] == [1, *[0] * 13, 2]
    assert found.ece == pytest.approx(1 / 3)


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_files_have_the_same_numbers(written):
    assert {path.name for path in written.folder.iterdir()} == {
        "index.html", "report.json", "predictions.csv", "classes.csv", "confusion.csv", "confusion.png"
    }  # fmt: skip
    report = json.loads((written.folder / "report.json").read_text(encoding="utf-8"))
    assert {"kind": "senet evaluation"} | json.loads(json.dumps(written.document)) == report
    assert report["images"] == 14
    assert report["confusion"] == [[3, 2, 0], [0, 3, 1], [2, 0, 3]]
    assert report["balanced_accuracy"] == pytest.approx((3 / 5 + 3 / 4 + 3 / 5) / 3)
    assert report["classes"][CLASSES[0]]["precision"] == 3 / 5
    assert [c["images"] for c in report["top_confusions"]] == [2, 2, 1]
    [[path, reason]] = report["unreadable"]
    assert (path.endswith("=green/4.png"), reason) == (True, "not an image")
    found = rows(written.folder / "predictions.csv")
    assert len(found) == 14
    assert sum(int(row["right"]) for row in found) == 9
    for row in found:
        shares = [float(row[f"p:{name}"]) for name in CLASSES]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert max(shares) == float(row["probability"])
    assert {row["truth"] for row in found} == {CLASSES[0], "'=green", CLASSES[2]}  # no formula for a spreadsheet
    mistakes = report["confident_mistakes"]
    wrong = sorted((float(row["probability"]) for row in found if row["right"] == "0"), reverse=True)
    assert [m["probability"] for m in mistakes] == pytest.approx(wrong, abs=1e-5)
    assert [float(row["recall"]) for row in rows(written.folder / "classes.csv")] == pytest.approx([0.6, 0.75, 0.6])


def test_many_classes_have_the_five_likeliest(written, tmp_path, monkeypatch):
    monkeypatch.setattr("senet.reports.predictions.MOST_COLUMNS", 2)
    source = written.data.split("all")
    report_classification(tmp_path / "r", written.loaded, source, written.data.classes, about=ABOUT, workers=0)
    first = rows(tmp_path / "r" / "predictions.csv")[0]
    assert list(first)[6:9] == ["class_2", "probability_2", "class_3"]
    assert float(first["probability"]) >= float(first["probability_2"]) >= float(first["probability_3"])


def test_an_earlier_report_is_replaced_and_nothing_else(written, tmp_path):
    folder = tmp_path / "report"
    source, classes = written.data.split("all"), written.data.classes

    def report():
        return report_classification(folder, written.loaded, source, classes, about=ABOUT, workers=0)

    report()
    report()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SenetError, match=r"holds notes\.txt, which is no part of an earlier report"):
        report()
    (folder / "notes.txt").unlink()
    (folder / "report.json").write_text("{}")
    with pytest.raises(SenetError, match="no part of an earlier report"):
        check_report(folder)
    with pytest.raises(SenetError, match="is a file; name a folder"):
        check_report(folder / "report.json")


def test_a_failure_leaves_nothing(written, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise SenetError("the disk is full")

    monkeypatch.setattr(module, "write_document", fail)
    with pytest.raises(SenetError, match="full"):
        report_classification(
            tmp_path / "r", written.loaded, written.data.split("all"), written.data.classes, about=ABOUT, workers=0
        )
    assert not list(tmp_path.iterdir())
