"""Pictures that are a thousand times as long as they are wide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_tasks_results import checkpoint

from senet.cli import main
from senet.data import DenseDataset, open_data
from senet.data.augmentation import Augmentation
from senet.data.joint_transform import boxes_transform, masks_transform
from senet.preprocessing import Preprocessing
from senet.tasks import load_model, task_named

SLIVERS = [(10, 10_000), (1, 60_000), (10_000, 10), (1, 5_000), (5_000, 1), (1, 1), (3, 1)]
SIZES = [(64, 64), (512, 512), (800, 1333)]
WHOLE, ZOOM = (
    Augmentation(crop="none", hflip=0.5),
    Augmentation(crop="scale-jitter", scale_jitter=(0.1, 2.0), hflip=0.5),
)


def boxes(size: tuple[int, int]) -> dict[str, np.ndarray]:
    box = np.array([[0, 0, *size]], dtype=np.float32)
    return {"boxes": box, "labels": np.zeros(1, np.int64), "crowd": np.zeros(1, bool), "difficult": np.zeros(1, bool)}


@pytest.mark.parametrize("size", SLIVERS)
@pytest.mark.parametrize("wanted", SIZES)
def test_what_a_network_gets_is_bounded_and_not_empty(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    """512 pixels high, the first was 512 x 512,000; zoomed to fit, it had no width."""
    images = Preprocessing(size=wanted)
    picture, mask = Image.new("RGB", size, "red"), np.zeros(size[::-1], np.uint8)
    most = 16 * min(wanted) * max(32, min(wanted))
    whole, _ = masks_transform(images)(picture, {"mask": mask})
    assert 0 < whole.shape[1] * whole.shape[2] <= most
    assert all(edge % 32 == 0 for edge in whole.shape[1:])
    for seed in range(4):
        torch.manual_seed(seed)
        for augmentation in (WHOLE, ZOOM):
            crop, target = masks_transform(images, augmentation)(picture, {"mask": mask})
            assert crop.shape[1:] == target["mask"].shape == wanted
            image, _ = boxes_transform(images, augmentation)(picture, boxes(size))
            assert min(image.shape) > 0
            assert image.shape[1] * image.shape[2] <= max(32 * 16 * max(wanted), wanted[0] * wanted[1])


@pytest.mark.parametrize("size", SLIVERS)
@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet", "fcos"])
def test_detectors_take_slivers(size: tuple[int, int], kind: str) -> None:
    images = Preprocessing(size=(64, 128))
    task = task_named("detection")
    model = task.build("se_resnet18", num_classes=2, preprocessing=images, options={"depths": (1, 1, 1, 1),
                       "group_width": 16}, head={"kind": kind, "channels": 64}).eval()  # fmt: skip
    transform = task.transform(images, None)
    with torch.inference_mode():
        (answer,) = task.predictions(model, [transform.alone(Image.new("RGB", size))], [size[::-1]])
    assert (answer["boxes"] <= torch.tensor([*size, *size])).all()


def test_boxes_of_a_shortened_sliver_lie_in_the_picture() -> None:
    """It has 40,000 x 20 pixels, the network sees 2048 x 32 with a border; what it says is of the picture."""

    class Finds(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            assert images[0].shape == (3, 32, 2048)
            box = torch.tensor([[512.0, 0, 1024, 30]])
            return [{"boxes": box, "scores": torch.ones(1), "labels": torch.ones(1, dtype=torch.long)}]

    task, size = task_named("detection"), (40_000, 20)
    transform = task.transform(Preprocessing(size=(64, 128)), None)
    (answer,) = task.predictions(Finds(), [transform.alone(Image.new("RGB", size))], [size[::-1]])
    assert answer["boxes"].tolist() == [[10_000, 0, 20_000, 20]]
    image, target = transform(
        Image.new("RGB", size), boxes(size) | {"boxes": np.array([[1e4, 0, 2e4, 20]], np.float32)}
    )
    assert image.shape == (3, 32, 2048)
    assert target["boxes"].tolist() == [[512, 0, 1024, 1]]


def test_an_ordinary_picture_is_left_alone() -> None:
    picture = Image.effect_noise((300, 20), 80).convert("RGB")
    tensor = boxes_transform(Preprocessing(size=(64, 128))).alone(picture)
    assert torch.equal(tensor, torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255)


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_slivers_are_predicted(task: str, tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, size in enumerate(SLIVERS):
        Image.new("RGB", size, "red").save(pictures / f"{number}.png")
    out = tmp_path / "out"
    network = checkpoint(tmp_path / "network", task)
    assert main(["predict", str(pictures), "--checkpoint", str(network), "--out", str(out)]) == 0
    if task == "segmentation":
        assert [Image.open(out / f"{n}.mask.png").size for n in range(len(SLIVERS))] == SLIVERS
    else:
        listed = json.loads((out / "images.json").read_text())["images"]
        assert [(entry["width"], entry["height"]) for entry in listed] == SLIVERS


def test_a_picture_longer_than_a_jpeg_can_be_is_predicted(tmp_path: Path) -> None:
    Image.new("RGB", (70_000, 4)).save(tmp_path / "a.png")
    network = checkpoint(tmp_path / "network", "segmentation")
    assert main(["predict", str(tmp_path / "a.png"), "--checkpoint", str(network), "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "a.mask.png").size == (70_000, 4)
    assert max(Image.open(tmp_path / "out" / "a.overlay.jpg").size) == 65_500


def test_a_sliver_among_training_pictures(voc: Path, tmp_path: Path) -> None:
    file = voc / "JPEGImages" / "p000.png"
    Image.new("RGB", (2000, 2), "red").save(file)
    loaded = load_model(checkpoint(tmp_path / "network", "detection"))
    dataset = DenseDataset(open_data(f"voc:{voc}").train, boxes_transform(loaded.preprocessing, WHOLE), seed=0)
    batch = dataset.collate([dataset[(0, 0)], dataset[(0, 1)]])
    objective = task_named("detection").objective(("blue", "red"))
    loss = objective.training_step(loaded.model.train(), batch)["loss"]
    assert torch.isfinite(loss)
