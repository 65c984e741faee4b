"""A network that was trained on 12 bits in 16 sees them alike wherever it is used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_options import QUICK
from PIL import Image

from senet.data import open_data
from senet.tasks import load_model


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits whose white is 4095, and the same in 8 bits beside them."""
    root, digits = tmp_path_factory.mktemp("twelve"), open_data("digits")
    for index in range(120):
        image, label = digits.train[index]
        grey = np.asarray(image.convert("L"))
        for folder, pixels in (("deep", np.rint(grey * (4095 / 255)).astype(np.uint16)), ("eight", grey)):
            path = root / folder / str(label) / f"{index:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


@pytest.fixture(scope="module")
def run(twelve: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from senet.cli import main

    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--data", f"folder:{twelve / 'deep'}", "--model", "se_cifar_resnet20",
                 "--white-level", "auto", "--out", str(folder), "--hflip", "0", *QUICK]) == 0  # fmt: skip
    return folder


def test_training_says_what_is_dark(twelve, senet, tmp_path) -> None:
    arguments = [
        "train",
        "--data",
        f"folder:{twelve / 'deep'}",
        "--model",
        "se_cifar_resnet20",
        "--out",
        tmp_path / "run",
    ]
    code, _, err = senet(*arguments, *QUICK, "--epochs", "1")
    assert code == 0
    assert " ".join(err.split()).count("16-bit images use 12 bits") == 1
    assert "--white-level 4095" in " ".join(err.split())


def test_the_level_is_in_the_checkpoint(run: Path) -> None:
    assert load_model(run).preprocessing.white_level == 4095
    assert json.loads((run / "best.json").read_text())["preprocessing"]["white_level"] == 4095


def test_evaluate_and_predict_use_it(run, twelve, senet) -> None:
    deep, eight = (
        json.loads(senet("evaluate", "--checkpoint", run, "--data", f"folder:{twelve / kind}", "--split", "all",
                         "--workers", "0", "--json")[1])
        for kind in ("deep", "eight")
    )  # fmt: skip
    assert deep["confusion"] == eight["confusion"]
    assert deep["loss"] == pytest.approx(eight["loss"], rel=1e-6)
    rows = [
        json.loads(senet("predict", twelve / kind, "--checkpoint", run, "--workers", "0", "--json")[1])
        for kind in ("deep", "eight")
    ]
    assert [row["top"] for row in rows[0]] == [row["top"] for row in rows[1]]


def test_a_new_run_begins_with_the_level_of_its_weights(run, twelve, senet, tmp_path) -> None:
    folder = tmp_path / "second"
    code, _, err = senet("train", "--checkpoint", run, "--data", f"folder:{twelve / 'deep'}", "--out", folder, *QUICK)
    assert code == 0, err
    assert "16-bit" not in err
    assert load_model(folder).preprocessing.white_level == 4095


def test_a_resumed_run_keeps_it(run, refused) -> None:
    assert "--white-level can't change in a resumed run" in refused("train", "--resume", run, "--white-level", "255")
