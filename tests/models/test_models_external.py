"""Networks of timm and torchvision by name: built, loaded from a checkpoint, begun with their published weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum

import senet
import senet.weights
from senet.external import ExternalLibrary, external_library
from senet.preprocessing import Preprocessing
from senet.surgery import InsertionPoint
from senet.training.model_initialization import ModelInitialization
from senet.weights import CheckpointMetadata, write_checkpoint
from senet.zoo import build_model, model_defaults


def test_other_texts_are_none_of_theirs() -> None:
    assert external_library("resnet50") is None
    assert external_library("mynet:build") is None
    assert external_library("timm.models:resnet18") is None


@pytest.mark.parametrize("text", ["timm:resnet18", "timm:resnet18.a1_in1k", "torchvision:resnet18"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_built_for_any_number_of_classes_and_channels(text: str, channels: int) -> None:
    model = build_model(text, num_classes=7, in_channels=channels).eval()
    assert model(torch.randn(2, channels, 32, 32)).shape == (2, 7)
    assert model.conv1.in_channels == channels


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("channels", [1, 3])
def test_no_second_output_in_training(name: str, channels: int) -> None:
    model = build_model(f"torchvision:{name}", num_classes=3, in_channels=channels)
    assert model.train()(torch.randn(2, channels, 96, 96)).shape == (2, 3)


def test_the_preprocessing_is_what_the_library_says() -> None:
    assert model_defaults("torchvision:resnet50") == (
        1000,
        Preprocessing(size=(224, 224), crop_fraction=224 / 232, interpolation="bilinear"),
    )
    assert model_defaults("timm:resnet18") == (1000, Preprocessing(crop_fraction=0.95, interpolation="bicubic"))
    half = Preprocessing(size=(299, 299), crop_fraction=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert model_defaults("timm:inception_v4")[1] == half


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_every_preprocessing_can_be_said(library: str) -> None:
    names = timm.list_models() if library == "timm" else torchvision.models.list_models(module=torchvision.models)
    for name in names[:: 20 if library == "timm" else 1]:
        other = external_library(f"{library}:{name}")
        assert isinstance(other, ExternalLibrary)
        assert min(other.preprocessing.size) >= 32
        if library == "torchvision":
            assert other.preprocessing.covered_size[0] == max(
                torchvision.models.get_model_weights(name).DEFAULT.transforms().resize_size[0],
                other.preprocessing.size[0],
            )
        assert other.num_classes >= 0


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(senet.SenetError, match=r"unknown timm network 'resnet5'; did you mean .*'resnet50'"):
        build_model("timm:resnet5", num_classes=2)
    with pytest.raises(senet.SenetError, match=r"unknown torchvision network 'resnet5'; did you mean .*'resnet50'"):
        build_model("torchvision:resnet5", num_classes=2)
    with pytest.raises(senet.SenetError, match=r"unknown tag of timm's resnet18 'a9_in1k'; did you mean .*'a1_in1k'"):
        build_model("timm:resnet18.a9_in1k", num_classes=2)
    for outside in ("hf-hub:timm/resnet18.a1_in1k", "local-dir:/tmp"):
        with pytest.raises(senet.SenetError, match="unknown timm network"):
            build_model(f"timm:{outside}", num_classes=2)
    with pytest.raises(senet.SenetError, match="attention is an option of this package's networks"):
        build_model("timm:resnet18", num_classes=2, options={"attention": None})


def test_a_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(senet.SenetError, match=r"timm:resnet18 needs timm.*pip install 'senet\[timm\]'"):
        build_model("timm:resnet18", num_classes=2)


@pytest.mark.parametrize("text", ["timm:resnet10t", "torchvision:squeezenet1_1", "cifar_resnet20"])
def test_what_surgery_inserted_is_part_of_a_checkpoint(text: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(text, num_classes=3).eval()
    sites = senet.retrofit(model, example_inputs=[torch.zeros(1, 3, 64, 64)]).inserted
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    options = {"retrofit": [site.to_dict() for site in sites]}
    described = CheckpointMetadata(model=text, options=options, classes=("a", "b", "c"), preprocessing=Preprocessing())
    write_checkpoint(tmp_path / "best.safetensors", model.state_dict(), described)
    loaded = senet.load_model(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.model(images), model(images))
    assert sum(isinstance(m, senet.SqueezeExcite) for m in loaded.model.modules()) == len(sites) > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": True}, "pretrained is an option of this package's networks"),
        ({"retrofit": [{"path": "layer1.0.bn2"}]}, "is not an insertion point"),
        ({"retrofit": [{"path": "layer9"}]}, "no module 'layer9'"),
        ({"retrofit": [{"side": "left"}]}, "side='left'"),
        ({"retrofit": [{"channels": "64"}]}, "channels='64'; it must be int"),
        ({"retrofit": [{"attention": {"kind": "sea"}}]}, "'se'"),
    ],
)
def test_a_description_of_no_network(options: dict, message: str, tmp_path: Path) -> None:
    whole = {"path": "layer1.0.bn2", "side": "output", "block": "layer1.0", "kind": "residual block", "stage": 2,
             "channels": 64, "space": [8, 8], "placement": "standard", "attention": {"kind": "se"}, "params": 1,
             "macs": 1}  # fmt: skip
    assert InsertionPoint.from_dict(whole).to_dict() == whole
    for site in options.get("retrofit", ()):
        if "insertion point" not in message:
            site.update(whole | site)
    described = CheckpointMetadata(
        model="torchvision:resnet18", options=options, classes=("a", "b"), preprocessing=Preprocessing()
    )
    write_checkpoint(tmp_path / "best.safetensors", {}, described)
    with pytest.raises(senet.errors.CheckpointError, match=message):
        senet.load_model(tmp_path)


@pytest.fixture(params=["timm:resnet18", "torchvision:resnet18"])
def published(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, torch.Tensor]]:
    """A name, and the weights that a download of it would give here."""
    torch.manual_seed(5)
    tensors = build_model(request.param, num_classes=1000).state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(tensors))
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: dict(tensors))
    return request.param, tensors


def test_published_weights(published: tuple[str, dict[str, torch.Tensor]]) -> None:
    text, tensors = published
    start = ModelInitialization.from_pretrained(text, {})
    assert start.preprocessing_for() == model_defaults(text)[1]
    whole = start.build([str(n) for n in range(1000)], Preprocessing())
    assert whole.new_head == ""
    assert all(torch.equal(t, tensors[key]) for key, t in whole.model.state_dict().items())
    fewer = start.build(["a", "b"], Preprocessing())
    assert fewer.new_head == "the weights are for 1,000 classes, the data has 2"
    assert fewer.model.fc.weight.shape == (2, 512)
    assert all(torch.equal(t, tensors[key]) for key, t in fewer.model.state_dict().items() if "fc." not in key)
    grey = build_model(text, num_classes=2, in_channels=1, pretrained=True)
    assert torch.allclose(grey.conv1.weight, tensors["conv1.weight"].sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("text", ["timm:resnet18", "torchvision:resnet18"])
def test_weights_that_cannot_be_had_are_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    monkeypatch.setattr(WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(
        senet.errors.CheckpointError, match=r"can't be downloaded: no route to host; use --no-pretrained"
    ) as caught:
        ModelInitialization.from_pretrained(text, {}).build(["a", "b"], Preprocessing())
    assert "\n" not in str(caught.value)


def test_published_weights_of_our_own_networks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(3)
    card = senet.weights.cards("se_resnet50_v1_5")
    options = dict(next(iter(card.values())).options)
    theirs = senet.create_model("se_resnet50_v1_5", **options)
    torch.save(senet.weights.to_layout(theirs, "timm"), tmp_path / "theirs.pth")
    monkeypatch.setattr("senet.zoo.fetch", lambda _: tmp_path / "theirs.pth")
    start = ModelInitialization.from_dict(
        json.loads(json.dumps(ModelInitialization.from_pretrained("se_resnet50_v1_5", {}).to_dict()))
    )
    started = start.build(["a", "b"], Preprocessing())
    assert started.new_head == "the weights are for 1,000 classes, the data has 2"
    own = started.model.state_dict()
    assert all(torch.equal(t, own[key]) for key, t in theirs.state_dict().items() if not key.startswith("head."))
    again = build_model(start.model, num_classes=2, options=start.all_options())
    assert again.state_dict().keys() == own.keys()
    assert all(tensor.shape == own[key].shape for key, tensor in again.state_dict().items())
    with pytest.raises(senet.SenetError, match="no pretrained weights of cifar_resnet20 are published"):
        ModelInitialization.from_pretrained("cifar_resnet20", {})
