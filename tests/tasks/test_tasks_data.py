"""Boxes and masks as they are read, what is wrong with them, and how they follow their pictures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from task_data import NAMES, PARTS, picture, sizes, xml

from senet.cli import main
from senet.data import DenseDataset, TrainBatchSampler, annotation_issues, open_data, scan, train_loader
from senet.data.augmentation import Augmentation
from senet.data.dense import aspect_groups
from senet.data.joint_transform import boxes_transform, masks_transform
from senet.data.sampler import Shard, grouped
from senet.errors import DataError, SenetError
from senet.preprocessing import Preprocessing

PLAIN = Preprocessing(size=(48, 64), mean=(0.0,) * 3, std=(1.0,) * 3)
RED, BLUE = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_boxes_are_read(kind: str, voc: Path, coco: Path) -> None:
    data = open_data(f"{kind}:{voc if kind == 'voc' else coco}")
    assert data.task == "detection"
    assert data.classes == (NAMES if kind == "voc" else ("red", "blue"))  # by name, by number
    for part in ("train", "val"):
        source = data.split(part)
        for index, number in enumerate(PARTS[part]):
            image, target = source[index]
            _, _, expected = picture(number, sizes(number))
            assert image.size == sizes(number) == tuple(source.sizes[index])
            found = {
                (data.classes[label], *box)
                for label, box in zip(target["labels"], target["boxes"].tolist(), strict=True)
            }
            assert found == set(expected)
    assert annotation_issues(data) == []
    assert any(not len(data.train[i][1]["boxes"]) for i in range(len(data.train))), "a picture without boxes is legal"


def test_masks_are_read(masks: Path) -> None:
    data = open_data(f"masks:{masks}")
    assert (data.task, data.classes) == ("segmentation", ("background", "blue", "red"))
    for index, number in enumerate(PARTS["train"]):
        image, target = data.train[index]
        assert image.size == sizes(number)
        assert np.array_equal(target["mask"], picture(number, sizes(number))[1])
    assert annotation_issues(data) == []
    (masks / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes.txt.*--class-names"):
        open_data(f"masks:{masks}")
    one = open_data(f"masks:{masks}", classes=("background", "thing"), instances=True)
    assert set(np.unique(np.concatenate([one.train[i][1]["mask"].ravel() for i in range(8)]))) == {0, 1}


def test_16_bit_instances(masks: Path) -> None:
    Image.fromarray(np.full((48, 64), 4242, dtype=np.uint16)).save(masks / "masks" / "p000.png")
    assert "class number 4242, but there are 3 classes" in str(annotation_issues(open_data(f"masks:{masks}")))
    one = open_data(f"masks:{masks}", classes=("background", "cell"), instances=True)
    assert (one.train[0][1]["mask"] == 1).all()


def test_difficult_and_crowds_are_marked(voc: Path, coco: Path) -> None:
    (voc / "Annotations" / "p002.xml").write_text(xml([("red", 1, 2, 20, 30)], difficult=1))
    target = open_data(f"voc:{voc}").train[2][1]
    assert (target["crowd"].tolist(), target["difficult"].tolist()) == ([False], [True])
    file = coco / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    source = open_data(f"coco:{coco}").train
    assert sum(source.target(i)["crowd"].sum() for i in range(len(source))) == 1


# What is wrong, with the file that says it.

WRONG_XML = {
    "<annotation><object>": "unreadable as VOC's XML",
    "<annotation><object><name>red</name></object></annotation>": "an object without name or bndbox",
    xml([("green", 1, 2, 20, 30)]): "class 'green' is none of blue, red",
}
MENDED_XML = {
    xml([("red", 5, 5, 5, 30)]): "has no area; left out",
    xml([("red", 20, 5, 10, 30)]): "has no area; left out",
    xml([("red", 500, 5, 520, 30)]): "lies outside its 48x64 image; left out",
    xml([("red", 20, 5, 60, 30)]): "reaches outside its 48x64 image; cut to it",
}


@pytest.mark.parametrize(("text", "reason"), [*WRONG_XML.items(), *MENDED_XML.items()], ids=lambda t: str(t)[:40])
def test_what_is_wrong_with_voc(text: str, reason: str, voc: Path) -> None:
    file = voc / "Annotations" / "p010.xml"  # of the validation split
    file.write_text(text)
    (trouble,) = annotation_issues(open_data(f"voc:{voc}"))
    assert trouble.path == str(file)
    assert reason in trouble.reason
    assert trouble.fatal == (text in WRONG_XML)


def test_a_box_that_reaches_outside_is_cut(voc: Path) -> None:
    (voc / "Annotations" / "p001.xml").write_text(xml([("red", 20, 5, 60, 30)]))
    assert open_data(f"voc:{voc}").train[1][1]["boxes"].tolist() == [[20, 5, 48, 30]]
    (voc / "Annotations" / "p001.xml").write_text(xml([("red", 20, 5, 20, 30), ("blue", 1, 1, 9, 9)]))
    target = open_data(f"voc:{voc}").train[1][1]
    assert target["boxes"].tolist() == [[1, 1, 9, 9]]
    assert target["labels"].tolist() == [0]


WRONG_COCO = [
    ({"category_id": 99}, "there is no category 99"),
    ({"image_id": 99}, "there is no image 99"),
    ({"bbox": [1, 2, 3]}, "bbox must be four numbers"),
    ({"bbox": [1, 2, 0, 5]}, "has no area"),
    ({"bbox": [900, 2, 5, 5]}, "lies outside"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG_COCO, ids=lambda t: str(t)[:30])
def test_what_is_wrong_with_coco(change: dict[str, object], reason: str, coco: Path) -> None:
    file = coco / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0] |= change
    file.write_text(json.dumps(content))
    (trouble,) = annotation_issues(open_data(f"coco:{coco}"))
    assert str(file) in trouble.path
    assert reason in trouble.reason


@pytest.mark.parametrize("text", ["{", "[]", '{"images": 3}', '{"images": [], "annotations": [], "categories": []}'])
def test_a_broken_json_is_named(text: str, coco: Path) -> None:
    file = coco / "annotations" / "instances_train2017.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"instances_train2017\.json"):
        open_data(f"coco:{coco}")


def test_what_is_wrong_with_masks(masks: Path) -> None:
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(masks / "masks" / "p000.png")
    Image.fromarray(np.full((64, 48), 3, np.uint8)).save(masks / "masks" / "p001.png")
    Image.fromarray(np.zeros((48, 80, 3), np.uint8)).save(masks / "masks" / "p002.png")
    (masks / "masks" / "p003.png").write_bytes(b"no picture")
    Image.fromarray(np.full((64, 48), 255, np.uint8)).save(masks / "masks" / "p004.png")  # nothing said: legal
    reasons = {Path(t.path).stem: t.reason for t in annotation_issues(open_data(f"masks:{masks}"))}
    assert reasons.keys() == {"p000", "p001", "p002", "p003"}
    assert "20x10, but its image" in reasons["p000"]
    assert "class number 3, but there are 3 classes (0..2)" in reasons["p001"]
    assert "one channel" in reasons["p002"]


def test_doctor_finds_all(voc: Path, masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data", f"voc:{voc}", "--workers", "0"]) == 0
    assert "no issues found" in capsys.readouterr().out
    for number, text in zip((1, 4, 10), [*WRONG_XML][:2] + [*MENDED_XML][:1], strict=True):
        (voc / "Annotations" / f"p{number:03d}.xml").write_text(text)
    assert main(["doctor", "--data", f"voc:{voc}", "--workers", "0", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)["data"]
    assert sorted(Path(path).stem for path, _ in report["annotation_issues"]) == ["p001", "p004", "p010"]
    (masks / "masks" / "p014.png").unlink()
    assert main(["doctor", "--data", f"masks:{masks}"]) == 2
    assert "p014" in capsys.readouterr().err


def test_counts_are_of_boxes(voc: Path) -> None:
    report = scan(open_data(f"voc:{voc}"), workers=0)
    expected = [name for number in PARTS["train"] for name, *_ in picture(number, sizes(number))[2]]
    assert report.splits["train"].per_class == {name: expected.count(name) for name in NAMES}


@pytest.mark.parametrize(
    ("text", "more", "message"),
    [
        ("voc:/nowhere", {}, "/nowhere doesn't exist; .*JPEGImages"),
        (f"voc:{__file__}", {}, "is a file, not a folder"),
        ("voc", {}, "needs a path"),
        ("coco:/nowhere", {}, "/nowhere doesn't exist"),
        ("masks:/nowhere", {}, "/nowhere doesn't exist; .*masks/NAME.png"),
        ("digits", {"classes": ("a",)}, "--class-names has no effect"),
        ("digits", {"instances": True}, "no masks"),
    ],
)
def test_other_mistakes(text: str, more: dict[str, object], message: str) -> None:
    with pytest.raises(SenetError, match=message):
        open_data(text, **more)  # type: ignore[arg-type]


# Boxes and masks follow their picture.

VARIED = Augmentation(crop="scale-jitter", scale_jitter=(0.7, 1.6), hflip=0.5, vflip=0.5)


@pytest.mark.parametrize("seed", range(12))
def test_boxes_follow(seed: int, voc: Path) -> None:
    dataset = DenseDataset(open_data(f"voc:{voc}").train, boxes_transform(PLAIN, VARIED), seed=seed)
    seen = 0
    for index in range(len(dataset)):
        image, target, _, _ = dataset[(3, index)]
        assert image.shape == (3, 48, 64)
        assert len(target["boxes"]) == len(target["labels"]) == len(target["crowd"]) == len(target["difficult"])
        if len(target["boxes"]) > 1:  # squares may hide each other
            continue
        pairs = zip(target["boxes"].round().int().tolist(), target["labels"].tolist(), strict=True)
        for (x1, y1, x2, y2), label in pairs:
            colour = (BLUE, RED)[label]
            like = (image - colour[:, None, None]).abs().amax(0) < 0.3
            assert like[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].float().mean() > 0.95 or min(x2 - x1, y2 - y1) < 6
            like[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
            assert not like.any(), "nothing of the square lies outside its box"
            seen += 1
    assert seen


@pytest.mark.parametrize("augmentation", [VARIED, Augmentation(crop="none", hflip=1.0, rotation=20, translate=0.1)])
def test_masks_follow(augmentation: Augmentation, masks: Path) -> None:
    dataset = DenseDataset(open_data(f"masks:{masks}").train, masks_transform(PLAIN, augmentation), seed=1)
    for index in range(len(dataset)):
        image, target, _, _ = dataset[(0, index)]
        mask = target["mask"]
        assert image.shape[1:] == mask.shape == (48, 64)
        assert type(mask) is torch.Tensor
        for number, colour in ((1, BLUE), (2, RED)):
            sure = (image - colour[:, None, None]).abs().amax(0) < 0.05
            assert (mask[sure] == number).float().mean() > 0.97 if sure.any() else True
    assert any((dataset[(0, i)].target["mask"] == 255).any() for i in range(len(dataset))), "nothing is said of borders"


def test_evaluation_leaves_masks_alone(masks: Path) -> None:
    dataset = DenseDataset(open_data(f"masks:{masks}").val, masks_transform(PLAIN))
    for index, number in enumerate(PARTS["val"]):
        image, target, _, _ = dataset[(0, index)]
        assert target["mask"].shape == sizes(number)[::-1]
        assert all(edge % 32 == 0 for edge in image.shape[1:])


def test_samples_depend_on_their_place_alone(voc: Path) -> None:
    source = open_data(f"voc:{voc}").train

    def sample(seed: int, key: tuple[int, int]) -> torch.Tensor:
        torch.manual_seed(random.randrange(1 << 30))
        return DenseDataset(source, boxes_transform(PLAIN, VARIED), seed=seed)[key].image

    assert torch.equal(sample(0, (1, 2)), sample(0, (1, 2)))
    assert not torch.equal(sample(0, (1, 2)), sample(0, (2, 2)))
    assert not torch.equal(sample(0, (1, 2)), sample(1, (1, 2)))


def test_what_a_task_cannot_vary_is_refused() -> None:
    from senet.tasks import task_named
    from senet.training.recipe import Recipe

    for task, change, message in (
        ("detection", {"augmentation": Augmentation()}, "crop='random-resized' isn't for detection"),
        ("detection", {"label_smoothing": 0.1}, "label_smoothing=0.1 has no effect"),
        ("segmentation", {"mixup": 0.2}, "mixup=0.2 has no effect"),
        ("segmentation", {"augmentation": Augmentation(crop="none", random_erasing=0.1)}, "random_erasing"),
        (
            "segmentation",
            {"augmentation": Augmentation(crop="none", cutout=8)},
            "cutout=8 has no effect on segmentation",
        ),
        ("detection", {"augmentation": Augmentation(crop="none", cutout=8)}, "cutout=8 has no effect on detection"),
        ("detection", {"augmentation": Augmentation(crop="none", pixel_jitter=3)}, "pixel_jitter"),
    ):
        recipe = Recipe(**{"augmentation": Augmentation(crop="none")} | change)  # type: ignore[arg-type]
        with pytest.raises(SenetError, match=message):
            task_named(task).check_recipe(recipe)


# Grouping.


def test_batches_are_of_one_shape_as_far_as_possible() -> None:
    groups = np.array([0] * 13 + [1] * 6 + [2] * 3)
    sampler = TrainBatchSampler(22, 4, seed=5, groups=groups)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = [[index for _, index in batch] for batch in sampler]
        assert len(batches) == len(sampler) == 5
        kinds = [{int(groups[index]) for index in batch} for batch in batches]
        assert sum(len(kind) == 1 for kind in kinds) >= 4
        assert len({index for batch in batches for index in batch}) == 20
    plain = TrainBatchSampler(22, 4, seed=5)
    assert len(plain) == len(sampler)


def test_a_resumed_epoch_goes_on_with_the_same_groups() -> None:
    groups = np.arange(40) % 3
    whole = list(TrainBatchSampler(40, 4, seed=2, groups=groups))
    later = TrainBatchSampler(40, 4, seed=2, groups=groups)
    later.resume_at(0, 3)
    assert list(later) == whole[3:]


def test_processes_share_a_grouped_epoch() -> None:
    groups = np.arange(41) % 2
    shares = [[[i for _, i in batch] for batch in TrainBatchSampler(41, 2, groups=groups, shard=Shard(rank, 2))]
              for rank in range(2)]  # fmt: skip
    assert len(shares[0]) == len(shares[1])
    for one, other in zip(*shares, strict=True):
        assert not set(one) & set(other)
        assert len({int(groups[i]) for i in one + other}) == 1


def test_grouped_loses_nothing() -> None:
    order = torch.randperm(50)
    assert sorted(grouped(order, torch.arange(50) % 7, 4).tolist()) == list(range(50))


def test_aspect_groups() -> None:
    found = aspect_groups(np.array([[100, 100], [101, 100], [200, 100], [100, 200], [640, 480], [0, 0]]))
    assert found[0] == found[1] == found[5]
    assert found[2] > found[4] > found[0] > found[3]


def test_loader_keeps_sizes_apart(voc: Path) -> None:
    source = open_data(f"voc:{voc}").train
    dataset = DenseDataset(source, boxes_transform(PLAIN), groups=aspect_groups(source.sizes))
    for batch in train_loader(dataset, batch_size=2, workers=0):
        assert [image.shape[1:] for image in batch.images] == [sizes(int(i))[::-1] for i in batch.indices]
        assert all(len(target["boxes"]) == len(target["labels"]) for target in batch.targets)
