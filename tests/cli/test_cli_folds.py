"""Cross-validation on the command line: every fold, resumed, summarized, and evaluated on its own images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from senet.cli import main
from senet.data import open_data, write_images
from senet.data.sources import Subset
from senet.training.interruption import Interrupted
from senet.training.job import Job

SMALL = ["--model", "se_cifar_resnet20", "--model-kwargs", "depth=8", "--recipe", "digits", "--batch-size", "8",
         "--workers", "0", "--logger", "none"]  # fmt: skip


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """Twenty-four digits of two classes by six writers, and their list."""
    folder = tmp_path_factory.mktemp("listed")
    digits = open_data("digits")
    chosen = np.concatenate([np.flatnonzero(digits.train.labels == label)[:12] for label in (0, 1)])
    paths = write_images(Subset(digits.train, chosen), folder, classes=digits.classes)
    with (folder / "list.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label", "writer"))
        for number, path in enumerate(paths):
            table.writerow((path.relative_to(folder).as_posix(), path.parent.name, f"w{number % 6}"))
    return folder / "list.csv"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_every_fold_is_trained_resumed_and_summarized(listed, tmp_path, monkeypatch, capsys):
    out = tmp_path / "folds"
    command = ["train", *SMALL, "--data", f"csv:{listed}", "--folds", "2", "--group", "writer", "--epochs", "1"]
    fit, started = Job._fit, []

    def stopped(job, *given, **more):
        started.append(job.source.fold)
        if started == [1, 2]:
            raise Interrupted
        return fit(job, *given, **more)

    monkeypatch.setattr(Job, "_fit", stopped)
    assert main([*command, "--out", str(out)]) == 130
    assert "continue with: senet train --resume" in capsys.readouterr().err
    assert main([*command, "--out", str(out)]) == 2
    assert "already contains a cross-validation" in capsys.readouterr().err
    assert main(["train", "--resume", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert started == [1, 2, 2]
    summary = json.loads((out / "cross_validation.json").read_text())
    assert summary == printed
    scores = [row["best"]["top1"] for row in summary["rows"]]
    assert [row["fold"] for row in summary["rows"]] == [1, 2]
    assert summary["best"]["top1"]["mean"] == pytest.approx(np.mean(scores))
    assert summary["best"]["top1"]["sd"] == pytest.approx(np.std(scores, ddof=1))

    writer = {str(listed.parent / row["path"]): row["writer"] for row in rows(listed)}
    predicted = rows(out / "predictions.csv")
    assert sorted(row["path"] for row in predicted) == sorted(writer)
    assert len({(writer[row["path"]], row["fold"]) for row in predicted}) == 6
    own = [row for row in predicted if row["fold"] == "2"]
    right = np.mean([row["right"] == "1" for row in own])
    assert main(["evaluate", str(out / "fold2"), "--data", f"csv:{listed}", "--json", "--workers", "0"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] == pytest.approx(right) == pytest.approx(scores[1])
    assert (found["images"], found["trained_on"], found["warnings"]) == (12, 0, [])
    assert found["description"] == "12 of 24 images: the validation split of this run"


def test_a_changed_list_or_group_is_refused(listed, tmp_path, monkeypatch, capsys):
    def stopped(job, *given, **more):
        raise Interrupted

    monkeypatch.setattr(Job, "_fit", stopped)
    text = listed.read_text()
    images, changed = listed.parent, tmp_path / "list.csv"
    changed.write_text(text)
    out = tmp_path / "run"
    data = f"csv:{changed}:root={images},group=writer"
    assert main(["train", *SMALL, "--data", data, "--epochs", "1", "--out", str(out)]) == 130
    for wrong, message in (
        (text.replace(",0,", ",1,", 1), "labels were added, removed or changed"),
        (
            text.replace(",w0", ",w9").replace(",w1", ",w0").replace(",w3", ",w1"),
            "is divided otherwise than in the run",
        ),
    ):
        changed.write_text(wrong)
        assert main(["train", "--resume", str(out)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--folds", "3", "--fold", "4"], "--fold 4 must lie in 1..3"),
        (["--fold", "2"], "--fold 2 needs the number of folds"),
        (["--folds", "30"], "24 images can't make 30 folds"),
        (["--group", "patient"], "no column 'patient'"),
    ],
)
def test_wrong_options(listed, tmp_path, capsys, options, message):
    out = tmp_path / "out"
    assert main(["train", *SMALL, "--data", f"csv:{listed}", *options, "--epochs", "1", "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_lists_in_other_commands(listed, tmp_path, capsys):
    assert main(["doctor", f"csv:{listed}", "--json", "--workers", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["data"]["splits"]["train"]["per_class"] == {"0": 10, "1": 10}
    dry = ["train", *SMALL, "--data", f"csv:{listed}", "--folds", "4", "--sampler", "balanced", "--dry-run", "--json"]
    assert main(dry) == 0
    assert json.loads(capsys.readouterr().out)["data"]["images"] == {"train": 18, "val": 6}
