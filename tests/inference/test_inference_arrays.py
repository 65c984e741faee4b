"""`LoadedModel.predict`, `predict_proba` and `embed`: every form of an image gives the same, and nothing is changed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from senet.data import eval_transform
from senet.errors import SenetError
from senet.preprocessing import Preprocessing
from senet.weights import CheckpointMetadata
from senet.zoo import LoadedModel, create_model

SMALL = Preprocessing(size=(24, 32))
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    model = create_model("se_cifar_resnet20", num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
    return LoadedModel(
        model, CLASSES, SMALL, CheckpointMetadata(model="se_cifar_resnet20", classes=CLASSES, preprocessing=SMALL)
    )


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (3, 40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(loaded, pixels):
    images = torch.stack([eval_transform(SMALL)(Image.fromarray(one)) for one in pixels])
    with torch.no_grad():
        return images, loaded.model(images).softmax(1)


def test_all_forms_of_images_agree(loaded, pixels, expected, tmp_path):
    pictures = [Image.fromarray(one) for one in pixels]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    images, probabilities = expected
    assert probabilities.std(0).min() > 1e-5  # the images differ
    for given in (pixels, list(pixels), pictures, paths, [str(path) for path in paths], images,
                  (pictures[0], paths[1], pixels[2])):  # fmt: skip
        for batch_size in (2, 64):
            torch.testing.assert_close(loaded.predict_proba(given, batch_size=batch_size), probabilities)
    for given in (pixels[0], pictures[0], paths[0], images[:1]):
        torch.testing.assert_close(loaded.predict_proba(given), probabilities[:1])
    assert loaded.predict_proba([]).shape == (0, 3)


def test_predictions_name_the_classes(loaded, pixels, expected):
    found = loaded.predict(pixels)
    for prediction, row in zip(found, expected[1], strict=True):
        assert prediction.label == CLASSES[row.argmax()]
        assert list(prediction.probabilities) == list(CLASSES)
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)
        assert prediction.probability == max(prediction.probabilities.values())


def test_features_are_the_classifiers_input(loaded, pixels, expected):
    features = loaded.embed(pixels, batch_size=2)
    linear = [module for module in loaded.model.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(linear(features).softmax(1).detach(), expected[1])


def test_mode_gradients_and_hooks_are_as_before(loaded, pixels):
    model = copy.deepcopy(loaded.model).train()
    model.stages.eval()
    modes = [module.training for module in model.modules()]
    again = LoadedModel(model, CLASSES, SMALL, loaded.metadata)
    torch.testing.assert_close(again.predict_proba(pixels), loaded.predict_proba(pixels))
    again.embed(pixels)
    with pytest.raises(SenetError):
        again.embed([pixels[0], "missing.png"])
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((4, 4, 3)), r"uint8 pixels \(H, W, 3\) or \(H, W\), got float64 \(4, 4, 3\)"),
        (torch.zeros(3, 8, 8), r"float \(N, 3, H, W\), got torch.float32 \(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8"),
        ([torch.zeros(3, 8, 8)], "got Tensor; a tensor holds a batch"),
        (7, "got int"),
        ("missing.png", "no such file"),
    ],
)
def test_other_images_are_refused(loaded, given, message):
    with pytest.raises(SenetError, match=message):
        loaded.predict(given)


def test_an_exported_file_predicts_and_has_no_features(loaded, pixels):
    from senet.deploy import ExportedModel, ExportMetadata

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return loaded.model(torch.from_numpy(images)).numpy()

    metadata = ExportMetadata(model="se_cifar_resnet20", classes=CLASSES, preprocessing=SMALL)
    exported = LoadedModel(ExportedModel(run, metadata, "a.onnx").eval(), CLASSES, SMALL, loaded.metadata)
    torch.testing.assert_close(exported.predict_proba(pixels), loaded.predict_proba(pixels))
    with pytest.raises(SenetError, match="no final linear layer with 3 outputs"):
        exported.embed(pixels)
