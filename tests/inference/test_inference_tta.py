"""Test-time augmentation and other image sizes: the numbers of a direct computation, and clear refusals."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from senet.cli import image_options, main
from senet.data import Subset, eval_transform, open_data, write_images
from senet.errors import SenetError
from senet.inference import at_size, evaluate, predict
from senet.inference.tta import TTA, AverageOfViews, Views, with_flip
from senet.preprocessing import CIFAR, Preprocessing
from senet.weights import CheckpointMetadata, write_checkpoint
from senet.zoo import LoadedModel, create_model

IMAGES = Preprocessing(size=(24, 20), crop_fraction=0.8)


def random_image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 41, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    torch.manual_seed(0)
    data = open_data("digits")
    options = {"depth": 1, "widths": [8, 16], "attention": {"kind": "se", "reduction": 4}}
    network = create_model("cifar_resnet20", in_channels=1, num_classes=10, **options)
    for tensor in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
        tensor.data.uniform_(0.2, 1.0) if tensor.ndim == 1 else tensor.data.normal_(0, 0.3)
    images = replace(data.default_preprocessing, size=(12, 12), crop_fraction=0.75)
    metadata = CheckpointMetadata(model="cifar_resnet20", options=options, classes=data.classes, preprocessing=images)
    return LoadedModel(network.eval(), data.classes, images, metadata)


def test_the_command_line_knows_all_views():
    assert tuple(TTA) == image_options.TTA


@pytest.mark.parametrize("tta", TTA)
def test_views_are_crops_and_mirror_images(tta):
    image = random_image()
    views = Views(IMAGES, tta)(image).unflatten(0, (TTA[tta], 3))
    whole = eval_transform(IMAGES)(image)
    center = {"flip": 0, "five-crop": 4, "ten-crop": 4}[tta]
    assert torch.equal(views[center], whole)
    half = len(views) // 2
    if tta != "five-crop":
        assert torch.equal(views[half:], views[:half].flip(-1))
    corner = eval_transform(replace(IMAGES, size=IMAGES.covered_size, crop_fraction=1.0))(image)[:, :24, :20]
    if tta != "flip":
        assert torch.allclose(views[0], corner, atol=0.02)
        assert len(torch.unique(views.flatten(1), dim=0)) == len(views)


def test_probabilities_are_averaged_in_float64():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5)).double()
    x = torch.randn(2, 5 * 3, 4, 4, dtype=torch.float64)
    expected = torch.stack([network(view).softmax(1) for view in x.split(3, 1)]).mean(0)
    found = AverageOfViews(network, 5, 5, name="linear")(x).softmax(1)
    assert torch.allclose(found.double(), expected, atol=1e-6)


@pytest.mark.parametrize("tta", ["flip", "ten-crop"])
def test_evaluation_and_prediction_use_the_average(digits, tta, tmp_path):
    data = open_data("digits")
    some = Subset(data.val, np.arange(24))
    transform = Views(digits.preprocessing, tta)
    with torch.no_grad():
        rows = torch.stack([
            digits.model(transform(some[n][0]).unflatten(0, (TTA[tta], 1))).softmax(1).mean(0) for n in range(len(some))
        ])  # fmt: skip
    observed = []
    result = evaluate(digits, some, data.classes, workers=0, tta=tta, observe=lambda *batch: observed.append(batch[2]))
    assert torch.allclose(torch.cat(observed), rows, atol=1e-6)
    labels = torch.tensor(some.labels)
    assert result.top1 == pytest.approx(float((rows.argmax(1) == labels).float().mean()))
    assert result.loss == pytest.approx(float(-rows.gather(1, labels[:, None]).log().mean()), abs=1e-5)
    plain = evaluate(digits, some, data.classes, workers=0)
    assert plain.loss != pytest.approx(result.loss, abs=1e-4)
    path = str(tmp_path / "one.png")
    some[0][0].save(path)
    [row] = predict(digits, [path], top=10, tta=tta, workers=0)
    by_name = dict(row.top)
    assert [by_name[name] for name in digits.classes] == pytest.approx(rows[0].tolist(), abs=1e-6)


def test_views_that_would_all_be_the_same_are_refused(digits):
    with pytest.raises(SenetError, match=r"needs a margin around the crop, but crop_fraction=1; use a"):
        Views(CIFAR, "five-crop")
    with pytest.raises(SenetError, match="five-crop"):
        Views(CIFAR, "fivecrop")
    detector = replace(digits, metadata=replace(digits.metadata, task="detection"))
    with pytest.raises(SenetError, match=r"tta='flip' is for classifiers; a detection network takes no test-time"):
        with_flip(detector, "flip")


def test_segmentation_averages_over_the_mirror_image(digits):
    torch.manual_seed(0)
    network = nn.Conv2d(1, 10, 3, padding=1).eval()
    loaded = replace(digits, model=network, metadata=replace(digits.metadata, task="segmentation"))
    x = torch.randn(2, 1, 6, 7)
    expected = (network(x).softmax(1) + network(x.flip(-1)).flip(-1).softmax(1)) / 2
    assert torch.allclose(with_flip(loaded, "flip")(x).softmax(1), expected, atol=1e-6)
    assert with_flip(loaded, "") is network
    with pytest.raises(SenetError, match="a segmentation network takes flip"):
        with_flip(loaded, "ten-crop")


def test_another_size(digits):
    larger = at_size(digits, (16, 20), crop_fraction=1.0)
    assert (larger.preprocessing.size, larger.preprocessing.crop_fraction) == ((16, 20), 1.0)
    assert larger.metadata.preprocessing == larger.preprocessing
    assert digits.preprocessing.size == (12, 12)
    assert at_size(digits) is digits
    fixed = replace(digits, model=nn.Sequential(nn.Flatten(), nn.Linear(144, 10)))
    with pytest.raises(SenetError, match=r"cifar_resnet20 can't take images of 16x16 pixels: mat1 and mat2 shapes"):
        at_size(fixed, (16, 16))
    detector = replace(digits, metadata=replace(digits.metadata, task="detection"))
    with pytest.raises(SenetError, match="a detector, which resizes images itself"):
        at_size(detector, (16, 16))
    with pytest.raises(SenetError, match="--crop-fraction is for classifiers"):
        at_size(detector, crop_fraction=0.5)


def test_a_transformer_names_its_size():
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=2)
    metadata = CheckpointMetadata(model="timm:vit_tiny_patch16_224", classes=("a", "b"), preprocessing=CIFAR)
    with pytest.raises(SenetError, match=r"can't take images of 64x64 pixels: Input height \(64\) doesn't match model"):
        at_size(LoadedModel(network, metadata.classes, CIFAR, metadata), (64, 64))


def test_on_the_command_line(digits, tmp_path, capsys):
    path = tmp_path / "digits.safetensors"
    write_checkpoint(path, digits.model.state_dict(), digits.metadata)
    more = ["--size", "14", "--crop-fraction", "0.8", "--tta", "ten-crop", "--workers", "0"]
    report = ["--report", str(tmp_path / "report")]
    data = open_data("digits")
    write_images(Subset(data.val, np.arange(40)), tmp_path / "few", classes=data.classes)
    assert main(["evaluate", str(path), "--data", f"folder:{tmp_path / 'few'}", "--json", *report, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["size"], found["crop_fraction"], found["tta"]) == ([14, 14], 0.8, "ten-crop")
    resized = at_size(digits, (14, 14), crop_fraction=0.8)
    some = Subset(data.val, np.arange(40))
    expected = evaluate(resized, some, data.classes, tta="ten-crop", workers=0)
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert json.loads((tmp_path / "report" / "report.json").read_text())["tta"] == "ten-crop"
    data.val[3][0].save(tmp_path / "three.png")
    assert main(["predict", str(tmp_path / "three.png"), "--checkpoint", str(path), "--json", *more]) == 0
    [row] = json.loads(capsys.readouterr().out)
    [expected] = predict(resized, [str(tmp_path / "three.png")], tta="ten-crop", workers=0)
    assert row["top"][0]["probability"] == pytest.approx(expected.top[0][1], abs=1e-6)
