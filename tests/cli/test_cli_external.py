"""Weights of other programs on the command line: `--checkpoint FILE --model NAME`, and `senet convert`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_options import QUICK
from torch import nn

import senet as package
from senet.data import Subset, open_data, write_images
from senet.external import external_library
from senet.training.folder import JOB
from senet.weights import to_layout

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
OWN = """
import torch.nn as nn
def build(num_classes=7):
    layers = nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(16, num_classes))
"""


def randomised(model: nn.Module, seed: int) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(*(0.5, 1.5) if key.endswith("var") else (-0.3, 0.3), generator=random)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ownnet.py").write_text(OWN)
    yield tmp_path
    sys.modules.pop("ownnet", None)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some digits of three classes."""
    path, digits = tmp_path_factory.mktemp("few"), open_data("digits")
    labels = np.array([digits.train[i][1] for i in range(200)])
    write_images(Subset(digits.train, np.flatnonzero(labels < 3)), path, classes=digits.classes)
    return path


def build(model: str, classes: int) -> nn.Module:
    if model == "ownnet:build":
        space: dict[str, Callable[[int], nn.Module]] = {}
        exec(OWN, space)
        return space["build"](classes)
    found = external_library(model)
    assert found is not None
    return found.build(num_classes=classes)


def saved(model: str, path: Path, classes: int = 7) -> tuple[nn.Module, nn.Module]:
    """A training's file with an average: the current and the averaged network."""
    raw, averaged = (randomised(build(model, classes), seed) for seed in (0, 1))
    torch.save({"model": {f"module.{k}": t for k, t in raw.state_dict().items()}, "epoch": 3,
                "model_ema": {f"module.module.{k}": t for k, t in averaged.state_dict().items()}}, path)  # fmt: skip
    return raw, averaged


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("timm:resnet10t", None),
        ("torchvision:resnet18", None),
        ("ownnet:build", None),
        ("ownnet:build", "raw"),
        pytest.param("timm:resnet10t", "raw", marks=pytest.mark.slow),
        pytest.param("torchvision:resnet18", "raw", marks=pytest.mark.slow),
    ],
)
def test_attention_goes_into_a_users_own_network(senet, model: str, weights: str | None, folder: Path) -> None:
    raw, averaged = saved(model, folder / "x.pth")
    more = ("--where", "0") if model == "ownnet:build" else ()
    choice = ("--weights", weights) if weights else ()
    code, out, err = senet(
        "retrofit", "--checkpoint", "x.pth", "--model", model, "--epochs", "0", "--out", "run", *more, *choice
    )
    assert code == 0, err
    assert ("averaged weights, from model_ema; --weights raw" in err) == (weights is None)
    loaded = package.load_model("run", factory=model if model.startswith("own") else None)
    assert loaded.classes == tuple(map(str, range(7))), "as many as the file's classifier has"
    expected = raw if weights else averaged
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(X), expected(X), atol=1e-4, rtol=1e-4)
    assert any("attention" in key for key in loaded.model.state_dict())
    assert "the same, bit for bit" in out


def test_a_network_of_this_package(senet, folder: Path) -> None:
    source = randomised(package.create_model("resnet18_v1_5", num_classes=7), 0)
    torch.save({"state_dict": {f"net.{k}": t for k, t in to_layout(source, "timm").items()}}, "x.ckpt")
    code, _, err = senet(
        "retrofit", "--checkpoint", "x.ckpt", "--model", "resnet18_v1_5", "--epochs", "0", "--out", "run"
    )
    assert code == 0, err
    loaded = package.load_model("run")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(X), source(X), atol=1e-4, rtol=1e-4)
    assert loaded.preprocessing.channel_order == "RGB"


def test_training_goes_on_with_another_programs_weights(senet, folder: Path, few: Path) -> None:
    saved("ownnet:build", folder / "x.pth", classes=3)
    common = ("--checkpoint", "x.pth", "--model", "ownnet:build", "--data", f"folder:{few}", "--size", "16", *QUICK)
    code, _, err = senet("train", *common, "--epochs", "1", "--out", "run")
    assert code == 0, err
    assert "averaged weights" in err
    assert "the classifier is new" not in err
    saved("ownnet:build", folder / "x.pth", classes=7)
    code, _, err = senet("train", *common, "--epochs", "1", "--out", "other")
    assert code == 0, err
    assert "the classifier is new: the weights are for 7 classes, the data has 3" in err
    job = json.loads((folder / "other" / JOB).read_text())
    assert job["external"]["classes"] == 7


def test_a_file_without_a_classifier_begins_a_training(senet, folder: Path, few: Path) -> None:
    state = {k: t for k, t in build("ownnet:build", 5).state_dict().items() if not k.startswith("5.")}
    torch.save({f"encoder.{key}": tensor for key, tensor in state.items()}, "x.pth")
    code, _, err = senet("train", "--checkpoint", "x.pth", "--model", "ownnet:build", "--data", f"folder:{few}",
                         "--size", "16", *QUICK, "--epochs", "1", "--out", "run")  # fmt: skip
    assert code == 0, err
    assert "the classifier is new: the file has no classifier" in err


def test_a_classifiers_weights_begin_a_segmentation(folder: Path) -> None:
    from senet.training.model_initialization import ModelInitialization

    source = randomised(package.create_model("se_resnet18_v1_5", num_classes=7), 0)
    torch.save({"state_dict": {f"module.{k}": t for k, t in to_layout(source, "moskomule").items()}}, "x.pth")
    start, _ = ModelInitialization.from_external_file("x.pth", "se_resnet18_v1_5", {}, task="segmentation")
    started = start.build(("a", "b"), start.preprocessing_for())
    state = started.model.state_dict()
    key = next(key for key in state if key.endswith("stages.2.0.branch.conv1.weight"))
    assert torch.equal(state[key], source.state_dict()["stages.2.0.branch.conv1.weight"])
    assert ModelInitialization.from_dict(json.loads(json.dumps(start.to_dict()))) == start


def test_convert_takes_the_number_of_classes_from_the_file(senet, folder: Path) -> None:
    raw, averaged = (randomised(package.create_model("cifar_resnet20", num_classes=7), seed) for seed in (0, 1))
    states = [to_layout(model, "cifar") for model in (raw, averaged)]
    torch.save({"state_dict": states[0], "state_dict_ema": states[1] | {"total_ops": torch.ones(1)}}, "x.pth")
    common = ("convert", "x.pth", "--model", "cifar_resnet20", "--out")
    code, out, err = senet(*common, "a.safetensors")
    assert code == 0, err
    assert "averaged weights, from state_dict_ema; --weights raw" in out
    assert "left out, 1 in all: total_ops" in out
    loaded = package.load_model("a.safetensors")
    assert len(loaded.classes) == 7
    assert loaded.metadata.training["averaged"] is True
    assert torch.equal(loaded.model.stem[0].weight, averaged.stem[0].weight)
    assert senet(*common, "b.safetensors", "--weights", "raw")[0] == 0
    assert torch.equal(package.load_model("b.safetensors").model.stem[0].weight, raw.stem[0].weight)
    assert senet(*common, "c.safetensors", "--prefix", "state_dict", "--ignore", "nothing*")[0] == 2


def test_refusals_say_what_to_do(refused, folder: Path) -> None:
    saved("ownnet:build", folder / "x.pth")
    assert "--checkpoint x.pth --model NAME" in refused("retrofit", "--checkpoint", "x.pth", "--plan")
    assert "use --checkpoint ./x.pth" in refused("retrofit", "--model", "./x.pth", "--plan")
    assert "use --checkpoint ./x.pth" in refused("train", "./x.pth", "--data", "digits")
    assert "no such file" in refused(
        "train", "--checkpoint", "absent.pth", "--model", "timm:resnet18", "--data", "digits"
    )
    assert "and --checkpoint names none" in refused(
        "train", "--model", "cifar_resnet20", "--data", "digits", "--prefix", "net"
    )
    said = refused("retrofit", "--checkpoint", "x.pth", "--model", "timm:resnet10t", "--plan")
    assert "its weight names" in said
    torch.save(build("ownnet:build", 7), "whole.pth")
    assert "use torch.save(model.state_dict(), FILE)" in refused(
        "retrofit", "--checkpoint", "whole.pth", "--model", "ownnet:build", "--plan"
    )
    assert "did you mean 'raw'" in refused("convert", "x.pth", "--model", "cifar_resnet20", "--out", "y.safetensors",
                                           "--weights", "row")  # fmt: skip
