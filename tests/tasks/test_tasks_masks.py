"""Masks that teach nothing are refused before a training; what each class came to is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from task_data import PARTS
from test_tasks_training import command

from senet.cli import main
from senet.data import open_data
from senet.data.checks import check_masks, mask_issues, report_data
from senet.errors import DataError
from senet.preprocessing import IMAGENET


def rewrite(masks: Path, change: object, parts: tuple[str, ...] = ("train", "val", "test")) -> None:
    for part in parts:
        for number in PARTS[part]:
            path = masks / "masks" / f"p{number:03d}.png"
            Image.fromarray(change(np.asarray(Image.open(path))).astype(np.uint8)).save(path)  # type: ignore[operator]


def binary(masks: Path, value: int) -> None:
    (masks / "classes.txt").write_text("background\nsquare\n")
    rewrite(masks, lambda mask: np.where(mask > 0, value, 0))


def test_masks_of_0_and_255_are_refused(masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    binary(masks, 255)
    assert main(command("segmentation", masks, "--out", str(tmp_path / "run"))) == 2
    said = capsys.readouterr().err
    assert "all train masks hold 0 and 255 alone" in said
    assert "--instances" in said
    assert "save square as 1" in said
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").glob("*.safetensors"))
    assert main(["doctor", "--data", f"masks:{masks}", "--workers", "0"]) == 1
    assert "0 and 255 alone" in capsys.readouterr().out


def test_the_remedies_work(masks: Path) -> None:
    binary(masks, 255)
    check_masks(open_data(f"masks:{masks}", instances=True), ("train", "val"), training=True)
    binary(masks, 1)
    check_masks(open_data(f"masks:{masks}"), ("train", "val"), training=True)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_part_of_0_and_255_measures_nothing(part: str, masks: Path) -> None:
    rewrite(masks, lambda mask: np.where(mask > 0, 255, 0), (part,))
    data = open_data(f"masks:{masks}")
    with pytest.raises(DataError, match=f"all {part} masks hold 0 and 255 alone"):
        check_masks(data, (part,), training=False)
    check_masks(data, ("train",), training=True)


MISSING = [
    ("background\nblue\nred\ngreen\n", lambda mask: mask, r"green \(number 3 of 0\.\.3\)"),
    ("background\nblue\nred\n", lambda mask: np.where(mask == 1, 2, mask), r"blue \(number 1 of 0\.\.2\)"),
    ("background\nblue\nred\n", lambda mask: np.where(mask == 0, 255, mask), "background"),
    ("background\nblue\nred\n", lambda mask: 0 * mask, "blue, red"),
]


@pytest.mark.parametrize(("classes", "change", "says"), MISSING, ids=["named only", "merged", "background", "empty"])
def test_a_class_that_no_training_mask_has_is_named(classes: str, change: object, says: str, masks: Path) -> None:
    (masks / "classes.txt").write_text(classes)
    rewrite(masks, change)
    data = open_data(f"masks:{masks}")
    with pytest.raises(DataError, match=f"no training mask contains {says}"):
        check_masks(data, ("train", "val"), training=True)
    check_masks(data, ("train", "val"), training=False)  # to evaluate, classes may be absent


def test_instances_without_an_object(masks: Path) -> None:
    rewrite(masks, lambda mask: 0 * mask)
    (masks / "classes.txt").unlink()
    (trouble,) = mask_issues(open_data(f"masks:{masks}", instances=True), ("train",))
    assert "no training mask contains object" in trouble.reason


def test_a_quick_try_needs_not_all_classes(masks: Path) -> None:
    from senet.training.job import DataOptions

    check_masks(DataOptions(data=f"masks:{masks}", limit=1).open(), ("train", "val"), training=True)


def test_some_masks_of_0_and_255_are_told(masks: Path) -> None:
    path = masks / "masks" / "p002.png"
    Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, 255, 0).astype(np.uint8)).save(path)
    told: list[str] = []
    report_data(open_data(f"masks:{masks}"), IMAGENET, told.append)
    (line,) = told
    assert line.startswith("1 of 8 training masks hold 0 and 255 (no class) alone")
    assert "p002.png" in line


def test_each_class_is_reported(masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(command("segmentation", masks, "--epochs", "1", "--out", str(run))) == 0
    rewrite(masks, lambda mask: np.where(mask == 2, 0, mask), ("val",))
    arguments = ["evaluate", "--checkpoint", str(run), "--data", f"masks:{masks}", "--split", "val", "--workers", "0"]
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["per_class"]) == ["background", "blue", "red"]
    values = [figures["iou"] for figures in result["per_class"].values()]
    known = [value for value in values if value is not None]
    assert np.mean(known) == pytest.approx(result["metrics"]["miou"], abs=1e-6)
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "IoU" in table
    assert all(name in table for name in ("background", "blue", "red"))


def test_predict_takes_no_workers(masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(command("segmentation", masks, "--epochs", "1", "--out", str(run))) == 0
    found = ["predict", str(masks / "images"), "--checkpoint", str(run), "--out", str(tmp_path / "out")]
    assert main([*found, "--workers", "2"]) == 2
    assert "--workers 2 has no effect" in capsys.readouterr().err
