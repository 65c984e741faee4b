"""What a detector and a segmenter leave behind: COCO's results, and pictures that don't overwrite one another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faster_coco_eval import COCO, COCOeval_faster
from PIL import Image
from task_data import rewrite

import senet.inference
from senet.cli import main
from senet.cli.output_names import output_names, relative_paths
from senet.data import load_image, open_data
from senet.data.coco import read_coco
from senet.data.coco_file import read_coco_file
from senet.inference import DensePrediction
from senet.preprocessing import Preprocessing
from senet.tasks import load_model, task_named
from senet.weights import CheckpointMetadata, write_checkpoint

HEADS = {"detection": {"kind": "fcos", "channels": 64}, "segmentation": {"kind": "unet", "channels": 16}}
OPTIONS = {"depths": [1, 1, 1, 1], "group_width": 16}


def checkpoint(folder: Path, task: str, **training: Any) -> Path:
    """A network with random weights."""
    folder.mkdir()
    images, classes = Preprocessing(size=(64, 64)), ("red", "blue")
    model = task_named(task).build(
        "se_resnet18", num_classes=2, preprocessing=images, options=OPTIONS, head=HEADS[task]
    )
    description = CheckpointMetadata(model="se_resnet18", options=OPTIONS, classes=classes, preprocessing=images,
                              training=training, task=task, head=HEADS[task])  # fmt: skip
    write_checkpoint(folder / "best.safetensors", model.state_dict(), description)
    return folder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "detector", "detection", category_ids=[3, 7])


@pytest.fixture
def segmenter(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "segmenter", "segmentation")


@pytest.fixture
def knows(monkeypatch: pytest.MonkeyPatch, coco: Path) -> None:
    """A network that finds the true boxes, and less surely one that isn't there."""
    data = open_data(f"coco:{coco}")
    truth = {os.path.realpath(data.val.locate(i)): data.val[i][1] for i in range(len(data.val))}

    def predict_dense(loaded: Any, paths: list[str], **_: Any) -> Iterator[DensePrediction]:
        for path in paths:
            target = truth[os.path.realpath(path)]
            boxes = torch.cat([torch.tensor(target["boxes"]), torch.tensor([[1.0, 2, 4.123456, 5]])])
            labels = torch.cat([torch.tensor(target["labels"]), torch.tensor([0])])
            scores = torch.tensor([0.9] * len(target["labels"]) + [0.1])
            yield DensePrediction(path, load_image(path), {"boxes": boxes, "labels": labels, "scores": scores})

    monkeypatch.setattr(senet.inference, "predict_dense", predict_dense)


def score(truth: Path, results: Path) -> float:
    coco = COCO(str(truth))
    evaluation = COCOeval_faster(coco, coco.loadRes(str(results)), "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def test_results_go_back_to_the_annotations_by_numbers(coco: Path, detector: Path, knows: None, tmp_path: Path) -> None:
    file = coco / "annotations" / "instances_val2017.json"
    out = tmp_path / "out"
    assert main(["predict", str(coco / "val2017"), "--checkpoint", str(detector), "--annotations", str(file), "--out",
                 str(out)]) == 0  # fmt: skip
    truth, found = json.loads(file.read_text()), json.loads((out / "predictions.json").read_text())
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in found)
    assert {row["image_id"] for row in found} == {entry["id"] for entry in truth["images"]} == {8, 9, 10, 11}
    assert {row["category_id"] for row in found} == {3, 7}

    def keys(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
        return {(row["image_id"], row["category_id"], *row["bbox"]) for row in rows}

    assert keys(truth["annotations"]) < keys(found)
    assert [1.0, 2.0, 3.123, 3.0] in [row["bbox"] for row in found]
    assert score(file, out / "predictions.json") == pytest.approx(1.0)


def test_results_without_annotations_go_with_their_list_of_images(
    coco: Path, detector: Path, knows: None, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(coco / "val2017"), "--checkpoint", str(detector), "--out", str(out)]) == 0
    listed = COCO(str(out / "images.json"))
    again = listed.loadRes(str(out / "predictions.json"))
    assert {category["name"]: category["id"] for category in listed.loadCats(listed.getCatIds())} == {
        "red": 3,
        "blue": 7,
    }
    assert again.getImgIds() == [1, 2, 3, 4]
    for entry in listed.loadImgs(listed.getImgIds()):
        assert Image.open(coco / "val2017" / entry["file_name"]).size == (entry["width"], entry["height"])
    source = read_coco(read_coco_file(out / "images.json"), [coco / "val2017"], ("red", "blue"))
    assert (len(source), source.issues) == (4, [])


@pytest.mark.parametrize("kept", [None, [1], [3, 3], ["3", 7], [3, 7.0], "37", [3, 7, 9]], ids=repr)
def test_numbers_that_fit_no_class_are_not_used(kept: Any, tmp_path: Path) -> None:
    from senet.tasks.detection.results import category_ids

    found = category_ids(load_model(checkpoint(tmp_path / "x", "detection", category_ids=kept)).metadata)
    assert found == (1, 2)


def test_training_keeps_the_numbers(coco: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = [
        "--model-kwargs",
        "group_width=16",
        "--model-kwargs",
        "depths=[1,1,1,1]",
        "--head",
        "fcos:channels=64",
        "--size",
        "64",
    ]
    assert main(["train", "--task", "detection", "--data", f"coco:{coco}", "--model", "se_resnet18", *small, "--epochs",
                 "1", "--batch-size", "4", "--workers", "0", "--out", str(out)]) == 0  # fmt: skip
    assert json.loads((out / "best.json").read_text())["training"]["category_ids"] == [3, 7]
    assert main(["predict", str(coco / "val2017"), "--checkpoint", str(out), "--out", str(tmp_path / "found")]) == 0
    found = json.loads((tmp_path / "found" / "predictions.json").read_text())
    assert {row["category_id"] for row in found} <= {3, 7}
    listed = json.loads((tmp_path / "found" / "images.json").read_text())
    assert [c["id"] for c in listed["categories"]] == [3, 7]


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_annotations_that_do_not_fit(
    coco: Path, detector: Path, segmenter: Path, knows: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco / "annotations" / "instances_val2017.json"
    ask = ["predict", coco / "val2017", "--checkpoint", detector, "--out", tmp_path / "out", "--annotations"]
    train = coco / "annotations" / "instances_train2017.json"
    assert "lists no image" in said(capsys, *ask, train)
    assert "is for detectors" in said(capsys, *ask[:3], segmenter, *ask[4:], file)
    twice = [*ask[:2], coco / "val2017", *ask[2:]]
    assert "are both image 8" in said(capsys, *twice, file)
    rewrite(file, lambda content: content["images"][0].update(width=9, height=9))
    assert "isn't image 8" in said(capsys, *ask, file)
    rewrite(file, lambda content: content["images"][0].update(width=0, height=0))
    rewrite(file, lambda content: content["categories"][0].update(name="green"))
    assert "no category 'blue'" in said(capsys, *ask, file)
    assert not (tmp_path / "out").exists()


def test_image_info_has_no_annotations(coco: Path, detector: Path, knows: None, tmp_path: Path) -> None:
    file = rewrite(coco / "annotations" / "instances_val2017.json", lambda content: content.pop("annotations"))
    assert main(["predict", str(coco / "val2017"), "--checkpoint", str(detector), "--annotations", str(file), "--out",
                 str(tmp_path / "out")]) == 0  # fmt: skip


# Names.


def names(*arguments: str, paths: list[str] | None = None) -> list[str]:
    return output_names(list(arguments), paths or list(arguments))


def test_names_of_pictures() -> None:
    assert names("a.png", "x/b.jpg") == ["a", "b"]
    assert names("x/a.png", "y/a.png") == ["x/a", "y/a"]
    assert names("x/a.png", "x/a.jpg") == ["a.png", "a.jpg"]
    assert names("x/a.png", "x/A.png") == ["a.png", "A.png-2"], "as on a file system that knows no case"
    assert names("x/a.png", "y/a.png", "x-2/a.png", "a-2.png") == ["x/a", "y/a", "x-2/a", "a-2"]
    assert names("a.png", "a.png") == ["a.png", "a.png-2"]
    assert names("a.png", "a.png", "a.png-2.gif") == ["a.png", "a.png-2", "a.png-2-2"]
    assert names("..png", "b") == [".", "b"] or names("..png", "b") == ["..png", "b"]
    (long,) = names("ä" * 120 + ".png")
    assert len(os.fsencode(long)) <= 180
    assert names("ä" * 120 + "a.png", "ä" * 120 + "b.png")[0] != names("ä" * 120 + "a.png", "ä" * 120 + "b.png")[1]


def test_names_below_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one/a/x.png", "one/b/x.png", "two/a/x.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    assert names("one", paths=["one/a/x.png", "one/b/x.png"]) == ["a/x", "b/x"]
    assert names("one", "two", paths=["one/a/x.png", "one/b/x.png", "two/a/x.png"]) == ["one/a/x", "b/x", "two/a/x"]
    assert relative_paths(["one", "two/a/x.png"], ["one/a/x.png", "two/a/x.png"]) == ["one/a/x.png", "two/a/x.png"]
    assert relative_paths(["one/a/../b/x.png"], ["one/a/../b/x.png"]) == ["x.png"]


ODD = [b"a[old].png", b"new\nline.png", b"quote\"',.png", b"not utf-8 \xff.png", b"=1+1.png", b"-.png"]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_pictures_of_equal_and_odd_names(
    task: str, detector: Path, segmenter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    day1, day2, out = tmp_path / "day1", tmp_path / "day2", tmp_path / "out"
    colours = {}
    for number, folder in enumerate((day1, day2)):
        folder.mkdir()
        for place, name in enumerate(ODD):
            colours[folder.name, name] = (100 * number, 20 * place, 255)
            with open(os.path.join(os.fsencode(folder), name), "wb") as file:
                Image.new("RGB", (40, 30 + place), colours[folder.name, name]).save(file, "PNG")
    (day2 / "broken[/x].png").parent.mkdir()
    (day2 / "broken[/x].png").write_bytes(b"none")
    network = {"detection": detector, "segmentation": segmenter}[task]
    sure = ["--score-threshold", "0.99"] if task == "detection" else []
    assert main(["predict", str(day1), str(day2), "--checkpoint", str(network), "--out", str(out), *sure]) == 0
    assert "broken[/x].png: not an image" in capsys.readouterr().out
    ending = {"detection": b".boxes.jpg", "segmentation": b".overlay.jpg"}[task]
    for (folder, name), colour in colours.items():
        made = os.path.join(os.fsencode(out), folder.encode(), name[:-4] + ending)
        with Image.open(made) as image:
            assert image.height == 30 + ODD.index(name)
            if task == "detection":
                assert all(abs(a - b) < 12 for a, b in zip(image.getpixel((20, 15)), colour, strict=True))
    assert not [path for path in out.rglob("*") if ".tmp" in path.name]
    if task == "detection":
        listed = json.loads((out / "images.json").read_text(encoding="utf-8"))["images"]
        found = {os.fsencode(entry["file_name"]) for entry in listed}
        assert found == {folder.encode() + b"/" + name for folder, name in colours}
        assert len({entry["id"] for entry in listed}) == 2 * len(ODD)


def test_no_picture_is_overwritten(
    segmenter: Path, detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.png", "a.overlay.jpg", "b.png", "b.boxes.jpg"):
        Image.new("RGB", (32, 32), "red").save(pictures / name)
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    for network, name in ((segmenter, "a.overlay.jpg"), (detector, "b.boxes.jpg")):
        message = said(capsys, "predict", pictures, "--checkpoint", network, "--out", pictures)
        assert f"{name} is one of the images" in message
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before
    link = tmp_path / "link"
    link.symlink_to(pictures)
    assert "one of the images" in said(capsys, "predict", pictures, "--checkpoint", detector, "--out", link)


def test_a_failure_leaves_no_half_file(
    coco: Path, detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.json").write_text("older")
    pictures = sorted((coco / "val2017").iterdir())
    whole = senet.inference.predict_dense

    def fails(loaded: Any, paths: list[str], **more: Any) -> Iterator[DensePrediction]:
        for number, seen in enumerate(whole(loaded, paths, **more)):
            if number == 2:
                raise OSError(5, "Input/output error", paths[2])
            yield seen

    monkeypatch.setattr(senet.inference, "predict_dense", fails)
    assert "Input/output error" in said(capsys, "predict", *pictures, "--checkpoint", detector, "--out", out)
    made = sorted(path.name for path in out.iterdir())
    assert made == [f"{pictures[0].stem}.boxes.jpg", f"{pictures[1].stem}.boxes.jpg", "predictions.json"]
    assert (out / "predictions.json").read_text() == "older"
    shutil.rmtree(out)
