"""Which images `senet evaluate` takes: the run's validation split, or all of another folder; and what it warns of."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cli_options import QUICK

from senet.cli import main
from senet.data import open_data
from senet.weights import read_checkpoint, write_checkpoint


def _write(root: Path, start: int, count: int) -> Path:
    digits = open_data("digits")
    for number in range(start, start + count):
        image, label = digits.train[number]
        (root / digits.classes[label]).mkdir(parents=True, exist_ok=True)
        image.save(root / digits.classes[label] / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """360 digits, not divided."""
    return _write(tmp_path_factory.mktemp("scans") / "scans", 0, 360)


@pytest.fixture(scope="module")
def run(scans, tmp_path_factory) -> Path:
    """A run on them, with a split of its own."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    code = main(["train", "--data", f"folder:{scans}", "--model", "se_cifar_resnet20", "--out", str(folder),
                 "--val-fraction", "0.3", "--split-seed", "5", "--hflip", "0", *QUICK])  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture
def evaluated(senet, run):
    def call(data: str, *more: str, checkpoint: Path = run) -> tuple[dict, str]:
        code, out, err = senet(
            "evaluate", "--checkpoint", checkpoint, "--data", data, "--workers", "0", "--json", *more
        )
        assert code == 0, err
        return json.loads(out), err

    return call


@pytest.fixture
def copy(scans, tmp_path) -> Path:
    return shutil.copytree(scans, tmp_path / "copy")


def _val(scans: Path) -> int:
    return len(open_data(f"folder:{scans}", val_fraction=0.3, seed=5).val)


def test_the_runs_own_validation_part(senet, evaluated, run, scans):
    found, _ = evaluated(f"folder:{scans}")
    assert (found["split"], found["images"], found["of_images"]) == ("val", _val(scans), 360)
    assert found["top1"] == pytest.approx(read_checkpoint(run)[1].metrics["top1"], abs=1e-6)
    assert (found["trained_on"], found["warnings"]) == (0, [])
    _, out, err = senet("evaluate", "--checkpoint", run, "--data", f"folder:{scans}", "--workers", "0")
    assert f"{_val(scans)} of 360 images: the validation split of this run" in out
    assert "warning" not in err


def test_a_relative_path_is_the_same_place(evaluated, scans, monkeypatch):
    monkeypatch.chdir(scans.parent)
    assert evaluated("folder:scans")[0]["description"].endswith("the validation split of this run")


def test_moved_data_is_the_runs(evaluated, scans, copy):
    found, _ = evaluated(f"folder:{copy}")
    assert (found["split"], found["images"], found["trained_on"]) == ("val", _val(scans), 0)
    assert found["description"].endswith("the validation split of this run")


@pytest.mark.parametrize("split", ["train", "all"])
def test_training_images_are_warned_of(senet, run, scans, split):
    images = 360 - _val(scans) if split == "train" else 360
    _, out, err = senet(
        "evaluate", "--checkpoint", run, "--data", f"folder:{scans}", "--split", split, "--workers", "0"
    )
    assert f"trained on {360 - _val(scans):,} of these {images} images" in err
    assert ("all 360 images of this run" if split == "all" else "training split of this run") in out


def test_another_split_than_the_runs_is_warned_of(evaluated, scans):
    found, _ = evaluated(f"folder:{scans}", "--split-seed", "6")
    assert found["trained_on"] > found["images"] / 2
    assert "this run" not in found["description"]


def test_added_images_move_none(evaluated, scans, run, copy):
    """At the run's place, with images that weren't there when it was trained."""
    _write(copy, 400, 100)
    folder = copy.parent / "run"
    shutil.copytree(run, folder)
    tensors, description = read_checkpoint(run)
    moved = replace(description, data=replace(description.data, name=f"folder:{copy}"))
    write_checkpoint(folder / "best.safetensors", tensors, moved)
    found, _ = evaluated(f"folder:{copy}", checkpoint=folder)
    assert found["images"] == _val(copy) > _val(scans)
    assert found["trained_on"] == 0
    assert "digest differs" in found["warnings"][0]


def test_another_folder_is_evaluated_whole(evaluated, tmp_path):
    found, _ = evaluated(f"folder:{_write(tmp_path / 'other', 400, 50)}")
    assert (found["split"], found["images"], found["trained_on"], found["warnings"]) == ("all", 50, 0, [])
    assert found["description"] == f"all 50 images of folder:{tmp_path / 'other'}"


def test_a_copy_with_more_images_warns(evaluated, scans, copy):
    _write(copy, 400, 10)
    found, _ = evaluated(f"folder:{copy}")
    assert (found["split"], found["images"], found["trained_on"]) == ("all", 370, 360 - _val(scans))
    found, _ = evaluated(f"folder:{copy}", "--split", "val")
    assert found["trained_on"] == 0, "the run's fraction and seed leave its training images out"


def test_what_begins_with_a_run_keeps_its_split(senet, run, scans, copy, tmp_path):
    """Images that the weights have learned are not validated on; where the user wants it so, it is told."""
    common = ("train", "--checkpoint", run, *QUICK[2:], "--data")
    code, _, err = senet(*common, f"folder:{scans}", "--out", tmp_path / "same")
    assert code == 0, err
    assert "trained on" not in err
    assert read_checkpoint(tmp_path / "same")[1].data == read_checkpoint(run)[1].data
    code, _, err = senet(*common, f"folder:{scans}", "--split-seed", "6", "--out", tmp_path / "other")
    assert code == 0, err
    val = open_data(f"folder:{scans}", val_fraction=0.3, seed=6).val
    leaked = {val.entry(i).path for i in range(len(val))} & {
        train.entry(i).path for train in [open_data(f"folder:{scans}", val_fraction=0.3, seed=5).train]
        for i in range(len(train))
    }  # fmt: skip
    assert f"were trained on {len(leaked)} of the {len(val)} validation images" in err


def test_one_class_is_enough(evaluated, copy, senet, run):
    for other in copy.iterdir():
        if other.name != "7":
            shutil.rmtree(other)
    found, _ = evaluated(f"folder:{copy}")
    assert found["images"] == len(list((copy / "7").iterdir()))
    assert found["per_class"]["7"] == found["top1"]
    _, out, _ = senet("evaluate", "--checkpoint", run, "--data", f"folder:{copy}", "--workers", "0")
    assert "no images of 9 of 10 classes: 0, 1, 2, 3, 4, ..." in out


def test_numbered_classes_match_as_many_names(evaluated, run, copy, tmp_path, refused):
    """Weights whose classes nobody named: as in training, they fit any as many classes."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for number, name in enumerate(names):
        (copy / str(number)).rename(copy / f"{number}-{name}")
    assert "'0-zero'" in refused("evaluate", "--checkpoint", run, "--data", f"folder:{copy}"), "it knows real names"
    tensors, description = read_checkpoint(run)
    write_checkpoint(tmp_path / "best.safetensors", tensors, replace(description, data=None))
    found, _ = evaluated(f"folder:{copy}", checkpoint=tmp_path)
    assert set(found["per_class"]) == {f"{number}-{name}" for number, name in enumerate(names)}
    shutil.rmtree(copy / "3-three")
    message = refused("evaluate", "--checkpoint", tmp_path, "--data", f"folder:{copy}")
    assert "10 classes without names" in message
    assert "9 classes" in message


def test_intervals(evaluated, scans):
    from scipy.stats import binomtest

    found, _ = evaluated(f"folder:{scans}")
    right = round(found["top1"] * found["images"])
    wanted = binomtest(right, found["images"]).proportion_ci(method="wilson")
    assert found["intervals"]["top1"] == pytest.approx([wanted.low, wanted.high])
    low, high = found["intervals"]["loss"]
    assert low < found["loss"] < high


def test_a_network_that_nobody_knows_the_data_of(evaluated, run, scans, tmp_path):
    tensors, description = read_checkpoint(run)
    write_checkpoint(tmp_path / "best.safetensors", tensors, replace(description, data=None))
    found, _ = evaluated(f"folder:{scans}", checkpoint=tmp_path)
    assert (found["images"], found["trained_on"]) == (360, None)


def test_an_exported_file_knows_its_run_too(evaluated, run, scans, senet, tmp_path):
    code, _, err = senet("export", "--checkpoint", run, "--format", "torch", "--out", tmp_path / "x.pt2")
    assert code == 0, err
    found, _ = evaluated(f"folder:{scans}", "--runtime", "torch", checkpoint=tmp_path / "x.pt2")
    assert (found["images"], found["trained_on"]) == (_val(scans), 0)
