"""Annotations that don't fit their pictures, that name files elsewhere, and boxes that don't count."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from task_data import rewrite, xml
from torch import Tensor

from senet.cli import main
from senet.data import DenseBatch, annotation_issues, open_data
from senet.data.safe_paths import OutsideError, file_within
from senet.errors import DataError
from senet.tasks import task_named
from senet.training.fit import check_annotations


def train_json(coco: Path) -> Path:
    return coco / "annotations" / "instances_train2017.json"


# Files that leave their folder.

OUTSIDE = {
    "/etc/passwd": "relative",
    "../secret.png": "leads out",
    "a/../../secret.png": "leads out",
    "a/../b.png": "leads out",
    "..": "leads out",
    "..\\secret.png": "backslash",
    "a\\b.png": "backslash",
    "C:/secret.png": "relative",
    "c:secret.png": "relative",
    "//server/share/x.png": "relative",
    "": "name of a file",
    3: "name of a file",
    None: "name of a file",
    "a\0.png": "zero byte",
    "\ud800.png": "no file system",
}


@pytest.mark.parametrize(("name", "reason"), OUTSIDE.items(), ids=repr)
def test_a_name_that_leaves_its_folder_is_refused(name: Any, reason: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    with pytest.raises(OutsideError, match=reason):
        file_within([tmp_path / "pictures"], name)


@pytest.mark.parametrize("name", ["a.png", "day 1/a.png", "..a.png", "a..b/...png", "=a[b].png", "~/a.png", "日本.png"])
def test_a_name_within_is_taken(name: str, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    assert file_within([tmp_path / "one", tmp_path / "two"], name) == tmp_path / "one" / name  # isn't there: told later
    (tmp_path / "two" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "two" / name).write_bytes(b"x")
    assert file_within([tmp_path / "one", tmp_path / "two"], name) == tmp_path / "two" / name


def test_links_may_not_lead_out_but_the_folder_may_be_one(tmp_path: Path) -> None:
    real = tmp_path / "disk"
    (real / "inner").mkdir(parents=True)
    (real / "a.png").write_bytes(b"x")
    (real / "inner" / "same.png").symlink_to("../a.png")
    (tmp_path / "secret.png").write_bytes(b"x")
    (real / "out.png").symlink_to(tmp_path / "secret.png")
    (real / "elsewhere").symlink_to(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.symlink_to(real)
    for name in ("a.png", "inner/same.png"):
        assert file_within([pictures], name).read_bytes() == b"x"
    for name in ("out.png", "elsewhere/secret.png"):
        with pytest.raises(OutsideError, match="a link that leads out"):
            file_within([pictures], name)


@pytest.mark.parametrize("name", ["../../secret.png", "{secret}", "link.png", "a\\b.png", 7])
def test_training_and_doctor_open_no_file_elsewhere(
    name: Any, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 48)).save(secret)
    (coco / "train2017" / "link.png").symlink_to(secret)
    name = name.replace("{secret}", str(secret)) if isinstance(name, str) else name
    rewrite(train_json(coco), lambda content: content["images"][0].update(file_name=name))
    data = open_data(f"coco:{coco}")
    assert len(data.train) == 7
    assert not any("secret" in data.train.locate(i) or "link" in data.train.locate(i) for i in range(7))
    with pytest.raises(DataError, match=r"instances_train2017.json: image 0: file_name"):
        check_annotations(data, print)
    assert main(["doctor", "--data", f"coco:{coco}", "--workers", "0"]) == 1
    assert "file_name" in capsys.readouterr().out


# COCO's numbers.


def test_categories_keep_their_numbers_and_parts_are_matched_by_name(coco: Path) -> None:
    """Numbers that mean something else in another file were taken for the training split's."""
    data = open_data(f"coco:{coco}")
    assert (data.classes, data.category_ids) == (("red", "blue"), (3, 7))
    before = [data.val[i][1]["labels"].tolist() for i in range(len(data.val))]

    def renumber(content: dict[str, Any]) -> None:
        new = {3: 7, 7: 3}
        for entry in content["categories"]:
            entry["id"] = new[entry["id"]]
        for entry in content["annotations"]:
            entry["category_id"] = new[entry["category_id"]]

    rewrite(coco / "annotations" / "instances_val2017.json", renumber)
    again = open_data(f"coco:{coco}")
    assert [again.val[i][1]["labels"].tolist() for i in range(len(again.val))] == before
    assert any(before)


@pytest.mark.parametrize(
    ("key", "change", "reason"),
    [
        ("images", {"id": 1}, "two entries of 'images' have the id 1"),
        ("images", {"id": [1]}, "must be a whole number or a text"),
        ("images", {"id": None}, "must be a whole number or a text"),
        ("categories", {"id": 7}, "two entries of 'categories' have the id 7"),
        ("categories", {"id": "3"}, "must be a whole number"),
        ("categories", {"id": True}, "must be a whole number"),
        ("categories", {"id": {}}, "must be a whole number"),
        ("categories", {"name": "blue"}, "distinct names"),
    ],
)
def test_numbers_that_are_none(key: str, change: dict[str, Any], reason: str, coco: Path) -> None:
    rewrite(train_json(coco), lambda content: content[key][-1 if key == "categories" else 0].update(change))
    with pytest.raises(DataError, match=rf"instances_train2017.json.*{reason}"):
        open_data(f"coco:{coco}")


@pytest.mark.parametrize(
    "change",
    [{"bbox": [10**400, 1, 5, 5]}, {"bbox": [True, 1, 5, 5]}, {"bbox": ["1", 1, 5, 5]}, {"image_id": [1]},
     {"category_id": {}}, {"category_id": 3.0}],
    ids=repr,
)  # fmt: skip
def test_values_of_other_kinds_are_named(change: dict[str, Any], coco: Path) -> None:
    rewrite(train_json(coco), lambda content: content["annotations"][0].update(change))
    (trouble,) = annotation_issues(open_data(f"coco:{coco}"))
    assert trouble.fatal
    assert "annotation 1: " in trouble.reason


# Sizes.


def test_a_picture_of_another_size_than_its_annotation(coco: Path, voc: Path) -> None:
    rewrite(train_json(coco), lambda content: content["images"][2].update(width=640, height=480))
    file = voc / "Annotations" / "p002.xml"
    said = "<annotation><size><width>640</width><height>480.0</height></size>"
    file.write_text(file.read_text().replace("<annotation>", said))
    for data in (open_data(f"coco:{coco}"), open_data(f"voc:{voc}")):
        (trouble,) = annotation_issues(data)
        assert trouble.fatal
        assert "is for 640x480 pixels" in trouble.reason
        assert "has 80x48" in trouble.reason
        with pytest.raises(DataError, match="640x480"):
            check_annotations(data, print)
    assert main(["doctor", "--data", f"coco:{coco}", "--workers", "0"]) == 1


@pytest.mark.parametrize(
    "said", [{"width": 0, "height": 0}, {"width": None}, {"width": "640"}, {"height": -1}], ids=repr
)
def test_no_size_is_no_contradiction(said: dict[str, Any], coco: Path) -> None:
    rewrite(train_json(coco), lambda content: content["images"][2].update(said))
    assert annotation_issues(open_data(f"coco:{coco}")) == []


def test_a_picture_that_exif_turns(coco: Path) -> None:
    """The boxes were drawn on the picture as it is stored."""
    file = coco / "train2017" / f"{0:012d}.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        image.save(file, exif=exif)
    (trouble,) = annotation_issues(open_data(f"coco:{coco}"))
    assert "is for 64x48 pixels, 000000000000.png has 48x64" in trouble.reason
    assert "EXIF orientation rotates it" in trouble.reason


def test_equal_names_in_two_folders(coco: Path) -> None:
    """Pictures are told apart by their path below the folder, not by their last name."""
    pictures = coco / "train2017"
    for number, folder in enumerate(("a", "b")):
        (pictures / folder).mkdir()
        shutil.move(pictures / f"{number:012d}.png", pictures / folder / "same.png")

    def move(content: dict[str, Any]) -> None:
        content["images"][0]["file_name"], content["images"][1]["file_name"] = "a/same.png", "b/same.png"

    rewrite(train_json(coco), move)
    data = open_data(f"coco:{coco}")
    assert annotation_issues(data) == []
    assert [Path(data.train.locate(i)).parent.name for i in range(2)] == ["a", "b"]
    assert [data.train[i][0].size for i in range(2)] == [(64, 48), (48, 64)]


# Difficult objects.

BIG = [0.0, 0, 40, 40]
FAR = [100.0, 100, 120, 120]


def val_metrics(truth: list[list[float]], difficult: list[bool], found: list[tuple[list[float], float]]) -> float:
    class Finds(torch.nn.Module):
        def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
            boxes = torch.tensor([box for box, _ in found])
            scores = torch.tensor([score for _, score in found])
            return [{"boxes": boxes, "scores": scores, "labels": torch.ones(len(found), dtype=torch.long)}]

    objective = task_named("detection").objective(("a",), alone=True)
    target = {
        "boxes": torch.tensor(truth),
        "labels": torch.zeros(len(truth), dtype=torch.long),
        "crowd": torch.zeros(len(truth)).bool(),
        "difficult": torch.tensor(difficult),
    }
    batch = DenseBatch([torch.zeros(3, 200, 200)], [target], torch.zeros(1), torch.ones(1).bool(), [], (0, 0))
    objective.validation_step(Finds().eval(), batch)
    return float(objective.val_metrics()["map"])


def test_a_difficult_object_is_neither_hit_nor_miss() -> None:
    both = [BIG, FAR]
    assert val_metrics(both, [True, False], [(FAR, 0.5)]) == 1.0, "missed"
    assert val_metrics(both, [True, False], [(BIG, 0.9), (FAR, 0.5)]) == 1.0, "found"
    assert val_metrics(both, [True, False], [(BIG, 0.9), (BIG, 0.8), (BIG, 0.7), (FAR, 0.5)]) == 1.0, (
        "found three times"
    )
    assert val_metrics(both, [False, False], [(BIG, 0.9), (BIG, 0.8), (FAR, 0.5)]) < 1.0, "an ordinary one found twice"


def test_what_only_lies_on_a_difficult_object_is_wrong() -> None:
    """VOC measures the overlap as for any object; what lies inside one of COCO's crowds is not counted."""
    small = [10.0, 10, 20, 20]
    assert val_metrics([BIG, FAR], [True, False], [(small, 0.9), (FAR, 0.5)]) == pytest.approx(0.5)


def test_only_difficult_objects_are_no_score() -> None:
    objective = task_named("detection").objective(("a", "b"), alone=True)
    assert val_metrics([BIG], [True], [(BIG, 0.9)]) == 0.0
    assert objective.per_class == {}


def test_difficult_objects_are_not_learned_nor_counted(voc: Path) -> None:
    from senet.tasks.detection.objective import _learned

    objects = [("red", 1, 2, 20, 30), ("blue", 5, 5, 30, 30)]
    text = xml(objects)
    file = voc / "Annotations" / "p002.xml"
    before = sum(open_data(f"voc:{voc}").train.counts(2))
    had = len(open_data(f"voc:{voc}").train.target(2)["boxes"])
    file.write_text(text.replace("<difficult>0", "<difficult>1", 1))
    data = open_data(f"voc:{voc}")
    assert sum(data.train.counts(2)) == before - had + 1
    target = {key: torch.as_tensor(np.array(value)) for key, value in data.train.target(2).items()}
    assert _learned(target)["labels"].tolist() == [1]  # blue; 0 is the background
