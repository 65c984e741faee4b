"""The files of the report of a multi-label classifier."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from report_helpers import CLASSES, THRESHOLDS


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_files_say_the_same(of_labels):
    predictions, classes = rows(of_labels.folder, "predictions.csv"), rows(of_labels.folder, "classes.csv")
    assert len(predictions) == of_labels.result.images == 14
    shares = of_labels.loaded.predict_proba([image for (image,) in of_labels.data.val.images]).numpy()
    truth = of_labels.data.val.labels.astype(bool)
    columns = [name for name in predictions[0] if name.startswith("p:")]
    assert len(columns) == 3
    assert [[float(row[name]) for name in columns] for row in predictions] == pytest.approx(shares, rel=1e-4)
    wrong = (shares >= THRESHOLDS) != truth
    assert [int(row["wrong"]) for row in predictions] == wrong.sum(1).tolist()
    assert [float(row["threshold"]) for row in classes] == pytest.approx(THRESHOLDS)
    assert [int(row["right"]) for row in classes] == ((shares >= THRESHOLDS) & truth).sum(0).tolist()
    assert classes[2]["average_precision"] == ""
    document = json.loads((of_labels.folder / "report.json").read_text())
    mistakes = document["confident_mistakes"]
    sure = np.where(truth, 1 - shares, shares)[wrong]
    assert [m["probability"] if not m["present"] else 1 - m["probability"] for m in mistakes] == pytest.approx(
        sorted(sure, reverse=True)[:24]
    )
    assert CLASSES[2] not in document["curves"]
