"""Evaluation and prediction against a count by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from senet.data import FileSource, Subset, eval_transform, open_data, write_images
from senet.errors import DataError, UnknownNameError
from senet.inference import evaluate, predict
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel, create_model


@pytest.fixture(scope="module")
def digits():
    data = open_data("digits")
    return replace(data, val=Subset(data.val, np.arange(50)))


@pytest.fixture(scope="module")
def loaded(digits) -> LoadedModel:
    torch.manual_seed(0)
    model = create_model("se_cifar_resnet20", in_channels=1).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    preprocessing = digits.default_preprocessing
    description = CheckpointMetadata(model="se_cifar_resnet20", classes=digits.classes, preprocessing=preprocessing)
    return LoadedModel(model, digits.classes, preprocessing, description)


@pytest.fixture(scope="module")
def by_hand(digits, loaded):
    transform = eval_transform(loaded.preprocessing)
    images = torch.stack([transform(digits.val[i][0]) for i in range(len(digits.val))])
    with torch.no_grad():
        return loaded.model(images), torch.as_tensor(np.array(digits.val.labels))


@pytest.mark.parametrize("batch_size", [1, 7, 50, 64])
def test_evaluation_equals_a_count_by_hand(digits, loaded, by_hand, batch_size):
    logits, labels = by_hand
    result = evaluate(loaded, digits.val, digits.classes, batch_size=batch_size, workers=0)
    order = logits.argsort(1, descending=True)
    assert result.top1 == pytest.approx((order[:, 0] == labels).float().mean().item())
    assert result.top5 == pytest.approx((order[:, :5] == labels[:, None]).any(1).float().mean().item())
    assert result.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    for true, row in enumerate(result.confusion):
        assert row == torch.bincount(order[labels == true, 0], minlength=10).tolist()
        assert result.per_class[str(true)] == pytest.approx(row[true] / sum(row))


def test_prediction_equals_the_softmax_by_hand_and_keeps_the_order(digits, loaded, by_hand, tmp_path):
    paths = [str(p) for p in write_images(digits.val, tmp_path, classes=digits.classes)]
    shuffled = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))]
    rows = list(predict(loaded, shuffled, batch_size=8, top=3, workers=0))
    assert [row.path for row in rows] == shuffled
    shares = dict(zip(paths, by_hand[0].softmax(1), strict=True))
    for row in rows:
        values, numbers = shares[row.path].topk(3)
        assert [name for name, _ in row.top] == [str(n) for n in numbers.tolist()]
        assert [p for _, p in row.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_all_files_broken_is_no_crash(loaded, tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    rows = list(predict(loaded, paths, batch_size=2))
    assert [row.top for row in rows] == [(), (), ()]
    assert all(row.error for row in rows)


def test_more_classes_than_there_are_is_all_of_them(loaded, digits, tmp_path):
    path = write_images(Subset(digits.val, np.arange(1)), tmp_path, classes=digits.classes)
    (row,) = predict(loaded, [str(path[0])], top=99)
    assert len(row.top) == 10
    assert sum(p for _, p in row.top) == pytest.approx(1, abs=1e-5)


def test_unknown_precision_and_strange_classes(loaded, digits):
    with pytest.raises(UnknownNameError, match="'bf16'"):
        evaluate(loaded, digits.val, digits.classes, precision="bf6", workers=0)
    trained = replace(loaded, metadata=replace(loaded.metadata, data=digits.record()))
    with pytest.raises(DataError, match="'zebra'"):
        evaluate(trained, digits.val, ("zebra", *digits.classes[1:]), workers=0)


def test_numbered_classes_fit_any_as_many(loaded, digits):
    names = ("zebra", *digits.classes[1:])
    found = evaluate(loaded, digits.val, names, workers=0)
    assert list(found.per_class) == list(names)
    assert found.confusion == evaluate(loaded, digits.val, digits.classes, workers=0).confusion
    with pytest.raises(DataError, match="10 classes without names, and the data has 2 classes"):
        evaluate(loaded, digits.val, ("zebra", "okapi"), workers=0)


def test_bf16_is_close(loaded, digits, by_hand):
    result = evaluate(loaded, digits.val, digits.classes, precision="bf16", workers=0)
    assert result.loss == pytest.approx(nn.functional.cross_entropy(*by_hand).item(), rel=0.05)


def test_the_training_mode_of_a_network_does_not_matter(loaded, digits, by_hand):
    loaded.model.train()
    result = evaluate(loaded, digits.val, digits.classes, workers=0)
    assert result.loss == pytest.approx(nn.functional.cross_entropy(*by_hand).item(), rel=1e-4)


def test_progress_reaches_the_end(loaded, digits, tmp_path):
    seen = []
    evaluate(loaded, digits.val, digits.classes, workers=0, batch_size=20, progress=lambda *at: seen.append(at))
    assert seen == [(20, 50), (40, 50), (50, 50)]


def test_a_colour_picture_in_another_form(loaded, tmp_path):
    buffer = io.BytesIO()
    Image.new("RGBA", (31, 57), (200, 10, 10, 128)).save(buffer, "WEBP")
    (tmp_path / "a.webp").write_bytes(buffer.getvalue())
    source = FileSource([tmp_path / "a.webp"], [4])
    assert evaluate(loaded, source, loaded.classes, workers=0).images == 1
