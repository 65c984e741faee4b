"""Reports of detection and segmentation: counts by hand, worst images first, and the page in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from task_data import PARTS, sizes, squares
from test_tasks_evaluated import network

from senet.data import open_data
from senet.reports import report_dense
from senet.tasks.detection.drawing import draw_boxes
from senet.tasks.detection.objective import image_errors

ABOUT: dict[str, Any] = {"checkpoint": "c", "model": "m", "data": "d", "description": "4 images", "warnings": []}
NAMES = {"voc": ("blue", "green", "red"), "masks": ("background", "blue", "red")}


def reported(kind: str, data_folder: Path, folder: Path) -> dict[str, Any]:
    """The document of a network that doesn't see red."""
    data = open_data(f"{kind}:{data_folder}")
    loaded = network(NAMES[kind], "detection" if kind == "voc" else "segmentation")
    seen = loaded.model.seen
    loaded.model.seen = lambda image: [*seen(image)[:2], torch.full(image.shape[1:], -9.0)]
    _, document = report_dense(folder, loaded, data.val, data.classes, about=ABOUT, workers=0)
    assert json.loads((folder / "report.json").read_text()) == json.loads(
        json.dumps({"kind": "senet evaluation"} | document)
    )
    return document


@pytest.fixture
def detection(voc, tmp_path) -> dict[str, Any]:
    return reported("voc", voc, tmp_path / "report")


@pytest.fixture
def segmentation(masks, tmp_path) -> dict[str, Any]:
    return reported("masks", masks, tmp_path / "report")


def test_a_detector_that_misses_a_class(detection, tmp_path):
    assert detection["details"]["curves"] == {"blue": [1.0] * 101, "red": [0.0] * 101}
    counted = [(i["found"], i["missed"], i["false"]) for i in detection["image_metrics"]]
    names = [[name for name, *_ in squares(number, sizes(number))] for number in PARTS["val"]]
    assert counted == [(one.count("blue"), one.count("red"), 0) for one in names]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "index.html", "report.json", "classes.csv", "images.csv"
    }  # fmt: skip


def test_a_segmentation_network_that_misses_a_class(segmentation):
    confusion = segmentation["details"]["confusion"]
    assert confusion[2][2] == 0 < confusion[2][0]
    for number, image in zip(PARTS["val"], segmentation["image_metrics"], strict=True):
        names = {name for name, *_ in squares(number, sizes(number))}
        assert (image["score"] == 1) == ("red" not in names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["voc", "masks"])
def test_the_page_draws_the_worst_images(kind, request, tmp_path):
    from browsing import chromium, offline_pages  # skips where there is no browser

    document = reported(kind, request.getfixturevalue(kind), tmp_path / "report")
    wrong = [image for image in document["image_metrics"] if image["score"] is not None and image["score"] < 1]
    with chromium() as browser, offline_pages(browser) as open_page:
        page = open_page(tmp_path / "report", 390, 844)
        assert page.locator("#worst-list .pair").count() == len(wrong) > 0
        assert page.locator("#curve-panels svg").count() == (2 if kind == "voc" else 0)
        assert page.locator("#matrix").is_hidden() == (kind == "voc")
        legend = [] if kind == "voc" else list(NAMES[kind][1:])
        assert page.locator("#worst-legend span").all_inner_texts() == legend
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_one_object_is_found_once_and_a_crowd_counts_neither_way():
    box = [0.0, 0.0, 10.0, 10.0]
    prediction = {"boxes": torch.tensor([box, box, [50.0, 50, 60, 60], box, [80.0, 80, 90, 90]]),
                  "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.4]),
                  "labels": torch.tensor([0, 0, 0, 1, 0])}  # fmt: skip
    truth = {"boxes": torch.tensor([box, [20.0, 20, 30, 30], [48.0, 48, 99, 99]]), "labels": torch.tensor([0, 0, 0]),
             "iscrowd": torch.tensor([0, 0, 1]), "area": torch.tensor([100.0, 100, 2601])}  # fmt: skip
    found = image_errors(prediction, truth)
    assert found == {"score": 2 / (2 + 1 + 2), "found": 1, "missed": 1, "false": 2}
    nothing = {key: value[:0] for key, value in truth.items()}
    assert image_errors({key: value[:0] for key, value in prediction.items()}, nothing)["score"] is None


def test_a_label_at_the_border_is_drawn_inside_the_image():
    box = torch.tensor([[195.0, 95.0, 200.0, 100.0]])
    drawn = draw_boxes(Image.new("RGB", (200, 100)), {"boxes": box, "labels": torch.tensor([0])}, ["a long name"])
    filled = np.argwhere(np.asarray(drawn).any(-1))
    assert len(filled) > 10 * 5 * 5
    assert filled.max(0).tolist() == [99, 199]
