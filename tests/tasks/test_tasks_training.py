"""Whole trainings on small pictures: resumed exactly, evaluated, used; surgery on a whole detector."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import senet
from senet.cli import main
from senet.data.coco import read_coco
from senet.data.coco_file import read_coco_file
from senet.errors import CheckpointError
from senet.tasks import load_model, task_named
from senet.training.checkpointer import TrainingCheckpointer
from senet.training.pulse import Pulse

SMALL = [
    "--model",
    "se_resnet18",
    "--model-kwargs",
    "group_width=16",
    "--model-kwargs",
    "depths=[1,1,1,1]",
    "--workers",
    "0",
]
HEADS = {"detection": "fcos:channels=64", "segmentation": "unet:channels=32"}


def command(task: str, folder: Path, *more: str) -> list[str]:
    kind = {"detection": "voc", "segmentation": "masks"}[task]
    return ["train", "--task", task, "--data", f"{kind}:{folder}", *SMALL, "--head", HEADS[task], "--size", "64",
            "--epochs", "2", "--batch-size", "2", "--vflip", "0.5", *more]  # fmt: skip


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(file)]


@pytest.fixture(params=["detection", "segmentation"])
def task(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def data(task: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue({"detection": "voc", "segmentation": "masks"}[task])


def test_train_resume_evaluate_predict(
    task: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(command(task, data, "--out", str(whole), "--ema-decay", "0.5")) == 0
    steps = count(1)

    def decide(_: Pulse, trainer: Any, wishes: list[bool]) -> list[bool]:
        """The user stops after the first epoch's third step."""
        if next(steps) == 3:
            next(c for c in trainer.callbacks if isinstance(c, TrainingCheckpointer)).stop.requested = True
            return [True, *wishes[1:]]
        return wishes

    with monkeypatch.context() as patch:
        patch.setattr(Pulse, "due", lambda _: True)
        patch.setattr(Pulse, "decide", decide)
        assert main(command(task, data, "--out", str(parts), "--ema-decay", "0.5")) == 130
    assert not (parts / "metrics.csv").exists()
    assert main(["train", "--resume", str(parts)]) == 0
    assert table(parts) == table(whole)
    one, other = (load_file(folder / "last.safetensors") for folder in (whole, parts))
    assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    said = capsys.readouterr()
    first = task_named(task).metrics[0]
    assert first.title in said.out
    assert f"{first.title} " in said.err

    description = json.loads((whole / "best.json").read_text())
    assert (description["task"], description["head"]["kind"]) == (task, HEADS[task].partition(":")[0])
    arguments = ["evaluate", "--checkpoint", str(whole / "last.safetensors"), "--workers", "0", "--split", "val"]
    kind = {"detection": "voc", "segmentation": "masks"}[task]
    assert main([*arguments, "--data", f"{kind}:{data}", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["metrics"]
    for key, value in scores.items():
        assert value == pytest.approx(float(table(whole)[-1][f"val_{key}"]), abs=1e-6), "as in training"

    out = tmp_path / "found"
    (tmp_path / "broken.png").write_bytes(b"nothing")
    pictures = [str(path) for path in sorted(data.glob("*mages/*.png"))[:2]]
    assert (
        main(["predict", *pictures, str(tmp_path / "broken.png"), "--checkpoint", str(whole), "--out", str(out)]) == 0
    )
    said_now = capsys.readouterr().out
    assert "broken.png: not an image" in said_now
    assert "3 images, 1 of them can't be read" in said_now
    if task == "segmentation":
        mask = Image.open(out / "p000.mask.png")
        assert mask.size == Image.open(pictures[0]).size
        assert set(np.unique(np.asarray(mask))) <= {0, 1, 2}
        assert (out / "p001.overlay.jpg").is_file()
    else:
        listed = json.loads((out / "images.json").read_text())
        assert [entry["file_name"] for entry in listed["images"]] == [
            "voc/JPEGImages/p000.png",
            "voc/JPEGImages/p001.png",
        ]
        assert listed["categories"] == [{"id": 1, "name": "blue"}, {"id": 2, "name": "red"}]
        source = read_coco(read_coco_file(out / "images.json"), [tmp_path], ("blue", "red"))
        assert source.issues == []
        assert source.sizes.tolist() == [list(Image.open(path).size) for path in pictures]
        assert (out / "p001.boxes.jpg").is_file()

    model = senet.load_model(whole)
    assert model.metadata.task == task
    from senet import zoo

    with pytest.raises(CheckpointError, match=f"it is a {task} network"):
        zoo.load_model(whole)


def test_a_classifiers_checkpoint_becomes_the_backbone(voc: Path, tmp_path: Path) -> None:
    run = tmp_path / "digits"
    assert main(["train", "--data", "digits", *SMALL, "--size", "32", "--epochs", "1", "--out", str(run)]) == 0
    begun = ["train", "--task", "detection", "--data", f"voc:{voc}", "--checkpoint", str(run), "--head",
             "fcos:channels=64", "--size", "64", "--epochs", "1", "--batch-size", "2", "--workers", "0", "--lr", "1e-9",
             "--freeze-stages", "2", "--freeze-bn"]  # fmt: skip
    assert main([*begun, "--out", str(tmp_path / "cells")]) == 0
    there, here = load_file(run / "best.safetensors"), load_file(tmp_path / "cells" / "last.safetensors")
    body = {key.removeprefix("backbone.body."): tensor for key, tensor in here.items() if ".body." in key}
    assert body.keys() == {key for key in there if not key.startswith("head.")}
    for key, tensor in body.items():
        assert torch.allclose(tensor, there[key], atol=1e-6), f"{key} is the classifier's"
        if key.startswith(("stem", "stages.2.")) or "running" in key:
            assert torch.equal(tensor, there[key]), f"{key} is frozen"
    # Gone on with for detection, the head comes along; a detector is no classifier.
    again = ["train", "--data", f"voc:{voc}", "--checkpoint", str(tmp_path / "cells"), "--size", "64", "--epochs", "1",
             "--batch-size", "2", "--workers", "0", "--out", str(tmp_path / "more")]  # fmt: skip
    assert main(again) == 0
    wrong = [
        "train",
        "--task",
        "classification",
        "--data",
        "digits",
        "--checkpoint",
        str(tmp_path / "cells"),
        "--out",
        "x",
    ]
    assert main(wrong) == 2


def test_the_papers_recipe_runs(coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table 7's, on a COCO sample: frozen norms and first stages, Faster R-CNN."""
    arguments = ["train", "--task", "detection", "--data", f"coco:{coco}", "--recipe", "coco", *SMALL, "--epochs", "1",
                 "--batch-size", "4", "--size", "64", "--head", "faster_rcnn:channels=32,hidden=64"]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "run"), "--json"]) == 0
    job = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (job["recipe"]["freeze_stages"], job["recipe"]["freeze_bn"]) == (2, True)
    assert json.loads(capsys.readouterr().out)["last"]["train_loss"] > 0


@pytest.mark.slow
def test_retrofit_of_torchvisions_detector(voc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SE in the backbone's blocks and nowhere else, the function the same bit for bit; and it can be loaded again."""
    out = tmp_path / "se"
    arguments = ["retrofit", "--task", "detection", "--model", "torchvision:fasterrcnn_resnet50_fpn", "--no-pretrained"]
    assert main([*arguments, "--size", "64", "--data", f"voc:{voc}", "--epochs", "0", "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["difference"] == 0
    paths = [site["path"] for site in record["report"]["inserted"]]
    assert len(paths) == 16
    assert all(path.startswith("backbone.body.layer") for path in paths)
    loaded = load_model(out)
    assert sum(".attention." in key for key in loaded.model.state_dict()) == 16 * 4
    assert (loaded.classes, loaded.metadata.task) == (("blue", "red"), "detection")


def test_mistakes_before_training(voc: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        assert main([*arguments, "--out", str(tmp_path / "never")]) == 2
        assert not (tmp_path / "never").exists() or not any((tmp_path / "never").glob("*.safetensors"))
        return capsys.readouterr().err

    model = [
        "train",
        "--model",
        "se_resnet18",
        "--model-kwargs",
        "depths=[1,1,1,1]",
        "--size",
        "64",
        "--batch-size",
        "2",
    ]
    assert "is for --task detection, not for classification" in said(*model, "--data", f"voc:{voc}")
    assert "is for --task segmentation, not for detection" in said(
        *model, "--task", "detection", "--data", f"masks:{masks}"
    )
    assert "did you mean 'detection'" in said(*model, "--task", "detecton", "--data", f"voc:{voc}")
    assert "comes with its own head" in said(*model, "--data", "digits", "--head", "unet")
    assert "label_smoothing" in said(*model, "--task", "detection", "--data", f"voc:{voc}", "--label-smoothing", "0.1")
    broken = voc / "Annotations" / "p001.xml"
    broken.write_text("<annotation>")
    assert str(broken) in said(*model, "--task", "detection", "--data", f"voc:{voc}").replace("\n", "")


# What the scores are.


def test_map_is_cocos() -> None:
    objective = task_named("detection").objective(("a", "b"), alone=True)
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])

    class Knows(torch.nn.Module):
        def forward(self, images):
            answer = {"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": torch.tensor([0.9, 0.8])}
            return [answer for _ in images]

    from senet.data import DenseBatch

    def validation_step(labels: list[int], crowd: list[bool], valid: bool = True) -> dict[str, float]:
        target = {"boxes": boxes, "labels": torch.tensor(labels), "crowd": torch.tensor(crowd)}
        batch = DenseBatch([torch.zeros(3, 48, 48)], [target], torch.tensor([0]), torch.tensor([valid]), [], (0, 0))
        objective.validation_step(Knows().eval(), batch)
        return {key: float(value) for key, value in objective.val_metrics().items()}

    assert validation_step([0, 1], [False, False]) == {"map": 1.0, "map50": 1.0}
    assert validation_step([1, 0], [False, False]) == {"map": 0.0, "map50": 0.0}
    assert validation_step([0, 1], [False, True]) == {"map": 1.0, "map50": 1.0}, "a crowd is neither missed nor found"
    assert validation_step([0, 0], [False, False])["map50"] == pytest.approx(0.505, abs=0.01), "one of two found"


def test_overlaps_are_over_all_pixels() -> None:
    from senet.data import DenseBatch

    objective = task_named("segmentation").objective(("bg", "x"), alone=True)
    truth = torch.zeros(32, 32, dtype=torch.uint8)
    truth[:16] = 1
    truth[0, :4] = 255

    class Says(torch.nn.Module):
        def forward(self, images):
            logits = torch.zeros(len(images), 2, 32, 32)
            logits[:, 1, :24] = 1
            logits[:, 0, 24:] = 1
            return logits

    batch = DenseBatch([torch.zeros(3, 32, 32)], [{"mask": truth}], torch.tensor([0]), torch.tensor([True]), [], (0, 0))
    objective.validation_step(Says().eval(), batch)
    found = objective.val_metrics()
    x, both = 16 * 32 - 4, 24 * 32 - 4
    assert objective.per_class["x"]["iou"] == pytest.approx(x / both)
    assert objective.per_class["x"]["dice"] == pytest.approx(2 * x / (x + both))
    assert float(found["miou"]) == pytest.approx((x / both + 8 * 32 / (16 * 32)) / 2)


def test_one_pictures_answer_does_not_hang_on_its_neighbours(masks: Path) -> None:
    """Attention averages over the whole map: padding to a neighbour's size would be part of that."""
    torch.manual_seed(0)
    model = task_named("segmentation").build(
        "se_resnet18", num_classes=3, preprocessing=senet.create_model("resnet18", device="meta").spec.preprocessing,
        options={"depths": (1, 1, 1, 1), "group_width": 16}, head={"kind": "unet", "channels": 32},
    ).eval()  # fmt: skip
    from senet.tasks.segmentation.objective import segment

    images = [torch.randn(3, 64, 96), torch.randn(3, 96, 64), torch.randn(3, 64, 96)]
    with torch.inference_mode():
        together = segment(model, images, [(60, 90), (90, 60), (64, 96)])
        alone = [segment(model, [i], [s])[0] for i, s in zip(images, [(60, 90), (90, 60), (64, 96)], strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert (one == other).float().mean() > 0.999


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision(precision: str, voc: Path, tmp_path: Path) -> None:
    """At sizes whose coarsest map has more than one place: in bf16 on a processor torch's 3x3 convolution of a single
    one has gradients that are no numbers."""
    more = ("--out", str(tmp_path / "run"), "--precision", precision, "--epochs", "1", "--size", "192")
    assert main(command("detection", voc, *more)) == 0


@pytest.mark.parametrize("name", ["detection", "segmentation"])
def test_the_other_recipes_run(name: str, voc: Path, masks: Path, tmp_path: Path) -> None:
    folder = {"detection": voc, "segmentation": masks}[name]
    assert main(command(name, folder, "--recipe", name, "--epochs", "1", "--out", str(tmp_path / "run"))) == 0


@pytest.mark.slow
def test_two_processes_measure_what_one_does(task: str, data: Path, tmp_path: Path) -> None:
    """Four validation pictures for two processes, a fifth for one of them: none waits for the other."""
    for name in ("val.txt", "test.txt"):
        (data / name).write_text("".join(f"p{number:03d}\n" for number in range(8, 13)))
    two = ("--devices", "2", "--strategy", "ddp", "--batch-size", "4", "--out", str(tmp_path / "run"))
    run = [sys.executable, "-m", "senet", *command(task, data, *two)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    kind = {"detection": "voc", "segmentation": "masks"}[task]
    alone = [sys.executable, "-m", "senet", "evaluate", "--checkpoint", str(tmp_path / "run" / "last.safetensors"),
             "--data", f"{kind}:{data}", "--split", "val", "--json", "--workers", "0"]  # fmt: skip
    scores = json.loads(subprocess.run(alone, capture_output=True, text=True, check=True).stdout)["metrics"]
    for key, value in scores.items():
        assert value == pytest.approx(float(table(tmp_path / "run")[-1][f"val_{key}"]), abs=1e-5)
