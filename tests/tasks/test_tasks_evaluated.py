"""Networks whose answers lie in the image, evaluated: classes are matched by name, scores have intervals."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest, ttest_1samp
from task_data import COLOURS, PARTS, write_voc
from torch import Tensor, nn

from senet.data import open_data
from senet.errors import DataError
from senet.inference import choose_split, evaluate_dense
from senet.preprocessing import Preprocessing
from senet.tasks.intervals import bootstrap, jackknife, of_mean, wilson
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel

PLAIN = Preprocessing(size=(64, 64), mean=(0.0,) * 3, std=(1.0,) * 3)


class ByColour(nn.Module):
    """Says what it sees: `blue` and `red` pixels, or the box around them; blind to one colour in some images."""

    def __init__(self, names: tuple[str, ...], task: str) -> None:
        super().__init__()
        self.names, self.task = names, task

    def seen(self, image: Tensor) -> list[Tensor]:
        """(H, W) nearness of each class's colour."""
        colours = [torch.tensor(COLOURS.get(name, (160, 160, 160))) / 255 for name in self.names]
        return [1 - (image - colour.view(3, 1, 1)).abs().sum(0) for colour in colours]

    def forward(self, images: Tensor | list[Tensor]) -> Tensor | list[dict[str, Tensor]]:
        """As networks of these tasks do."""
        if self.task == "segmentation":
            return torch.stack([torch.stack(self.seen(image)) for image in images])
        return [self.boxes(image) for image in images]

    def boxes(self, image: Tensor) -> dict[str, Tensor]:
        """One box a colour."""
        boxes, labels = [], []
        for number, near in enumerate(self.seen(image), 1):
            rows, columns = torch.nonzero(near > 0.95, as_tuple=True)
            if len(rows):
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(number)
        return {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "scores": torch.ones(len(boxes)),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }


def network(names: tuple[str, ...], task: str) -> LoadedModel:
    """A network that needs no training."""
    description = CheckpointMetadata(model="by:colour", classes=names, preprocessing=PLAIN, task=task)
    return LoadedModel(ByColour(names, task), names, PLAIN, description)


def test_boxes_are_matched_by_name(voc: Path, coco: Path) -> None:
    loaded = network(("blue", "green", "red"), "detection")
    one, other = open_data(f"voc:{voc}"), open_data(f"coco:{coco}")
    assert one.classes != other.classes
    found = [evaluate_dense(loaded, data.val, data.classes, workers=0) for data in (one, other)]
    assert found[0].metrics == found[1].metrics
    assert found[0].metrics["map"] > 0.5
    assert found[0].per_class == found[1].per_class
    low, high = found[0].intervals["map"]
    assert low <= found[0].metrics["map"] <= high
    assert low < high


def test_numbered_classes_of_a_detector(coco: Path) -> None:
    data = open_data(f"coco:{coco}")
    wanted = evaluate_dense(network(data.classes, "detection"), data.val, data.classes, workers=0)
    loaded = network(data.classes, "detection")
    numbered = LoadedModel(loaded.model, ("0", "1"), PLAIN, loaded.metadata)
    assert evaluate_dense(numbered, data.val, data.classes, workers=0).per_class == wanted.per_class
    with pytest.raises(DataError, match="unknown to the network, the first: 'red'"):
        evaluate_dense(network(("blue", "green"), "detection"), data.val, data.classes, workers=0)


def test_masks_are_matched_by_name(masks: Path, tmp_path: Path) -> None:
    data = open_data(f"masks:{masks}")
    loaded = network(("red", "background", "green", "blue"), "segmentation")
    whole = evaluate_dense(loaded, data.val, data.classes, workers=0)
    assert whole.metrics["miou"] == 1
    assert whole.intervals["miou"] == pytest.approx(wilson(4, 4)), "four images are no certainty"
    fewer = shutil.copytree(masks, tmp_path / "fewer")
    (fewer / "classes.txt").write_text("background\nred\n")
    for path in (fewer / "masks").iterdir():
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == 2, 1, np.where(mask == 1, 255, 0)).astype(np.uint8)).save(path)
    part = open_data(f"masks:{fewer}")
    found = evaluate_dense(loaded, part.val, part.classes, workers=0)
    assert found.per_class["red"]["iou"] == 1
    blind = network(("red", "background", "blue"), "segmentation")
    blind.model.names = ("red", "background", "background")
    found = evaluate_dense(blind, data.val, data.classes, workers=0)
    low, high = found.intervals["miou"]
    assert low < found.metrics["miou"] < high


def test_undivided_boxes_are_evaluated_whole_or_by_the_runs_split(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "one")
    for part in PARTS:
        (root / f"{part}.txt").unlink()
    data = open_data(f"voc:{root}", val_fraction=0.4)
    record = data.record()
    moved = open_data(f"voc:{shutil.copytree(root, tmp_path / 'two')}", default_fraction=0.4, training=False)
    assert moved.digest == data.digest
    part = choose_split(moved, record)
    assert (part.split, len(part.source), part.trained_on) == ("val", len(data.val), 0)
    (tmp_path / "two" / "Annotations" / "p001.xml").write_text("<annotation></annotation>")
    relabelled = open_data(f"voc:{tmp_path / 'two'}", default_fraction=0.4, training=False)
    part = choose_split(relabelled, record)
    assert (part.split, len(part.source), part.trained_on) == ("all", 15, len(data.train))


@pytest.mark.parametrize(("right", "count"), [(0, 5), (5, 5), (1, 1), (350, 360), (3, 7)])
def test_wilson(right: int, count: int) -> None:
    wanted = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert wilson(right, count)[0] < wilson(right, count)[1]


def test_intervals_of_means_cover_the_truth_about_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    truth, hits = 0.3, {"mean": 0, "bootstrap": 0, "jackknife": 0}
    for _ in range(200):
        values = draw.beta(3, 7, size=40)
        spans = {
            "mean": of_mean(values),
            "bootstrap": bootstrap(values, lambda sums: sums / 40),
            "jackknife": jackknife(40, lambda chosen, values=values: float(values[chosen].mean())),
        }
        for name, span in spans.items():
            assert span is not None
            hits[name] += span[0] <= truth <= span[1]
    assert all(180 <= count <= 200 for count in hits.values()), hits
    wanted = ttest_1samp(values, 0).confidence_interval()
    assert spans["mean"] == pytest.approx((wanted.low, wanted.high))


def test_few_images_that_agree_are_no_certainty() -> None:
    ones = np.ones(6)
    for span in (bootstrap(ones, lambda sums: sums / 6), jackknife(6, lambda chosen: 1.0)):
        assert span == pytest.approx(wilson(6, 6))
    assert of_mean([1.0]) is None
    assert bootstrap(np.ones(1), lambda sums: sums) is None
    assert jackknife(1, lambda chosen: 1.0) is None
