"""VGG: torchvision's networks, the paper's counts, SE after each ReLU."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import (
    Translate,
    added_weights,
    assert_differ,
    assert_equal,
    assert_refused,
    attending,
    on_meta,
    rescaling_macs,
    torchvision_model,
)
from peers import pictures, randomise
from torch import nn

import senet
from senet.models import MODELS
from senet.profiling import cost

NAMES = ("vgg11", "vgg13", "vgg16", "vgg19")
SMALL, ODD = (32, 32), (75, 61)
TINY: dict[str, Any] = {"depths": (1, 2), "hidden": 16, "num_classes": 5}
WIDTHS16 = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6


def _peer(name: str, hidden: int = 4096) -> nn.Module:
    peer = torchvision_model(f"{name}_bn")
    with torch.device("meta"):
        peer.classifier[0] = nn.Linear(512 * 49, hidden)
        peer.classifier[3] = nn.Linear(hidden, hidden)
        peer.classifier[6] = nn.Linear(hidden, 1000)
    return peer


def _translate(peer: nn.Module) -> Translate:
    """torchvision numbers all layers through."""
    prefixes = {f"classifier.{n}": f"head.hidden.{n}" for n in (0, 3)} | {"classifier.6": "head.fc"}
    stage, unit = 1, 0
    for number, layer in enumerate(peer.features):
        if isinstance(layer, nn.Conv2d):
            prefixes[f"features.{number}"] = f"stages.{stage}.{unit}.conv"
        elif isinstance(layer, nn.BatchNorm2d):
            prefixes[f"features.{number}"] = f"stages.{stage}.{unit}.bn"
            unit += 1
        elif isinstance(layer, nn.MaxPool2d):
            stage, unit = stage + 1, 0

    def translate(key: str) -> str:
        prefix, _, rest = key.rpartition(".")
        return f"{prefixes[prefix]}.{rest}"

    return translate


def _insertion_points(peer: nn.Module, kind: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    return [layer for layer in peer.features if isinstance(layer, kind)]


@pytest.mark.parametrize(
    ("name", "size", "hidden"),
    [
        ("vgg13", (40, 33), 64),
        pytest.param("vgg16", (33, 45), 4096, marks=pytest.mark.slow),
        pytest.param("vgg19", SMALL, 64, marks=pytest.mark.slow),
    ],
)
def test_torchvision(name: str, size: tuple[int, int], hidden: int, record_property: Callable[..., None]) -> None:
    peer = _peer(name, hidden)
    assert_equal(on_meta(name, hidden=hidden), peer, _translate(peer), size, record_property)


def test_torchvision_with_se_after_each_relu(record_property: Callable[..., None]) -> None:
    peer = _peer("vgg16", 64)
    assert_equal(on_meta("se_vgg16", hidden=64), peer, _translate(peer), ODD, record_property, _insertion_points(peer))


def test_torchvision_at_the_papers_size(record_property: Callable[..., None]) -> None:
    peer = _peer("vgg11", 64)
    ours = on_meta("se_vgg11", hidden=64)
    assert_equal(ours, peer, _translate(peer), (224, 224), record_property, _insertion_points(peer), double=False)


def test_the_comparison_sees_se_before_the_relu() -> None:
    peer = _peer("vgg11", 64)
    assert_differ(
        on_meta("se_vgg11", hidden=64), peer, _translate(peer), SMALL, _insertion_points(peer, nn.BatchNorm2d)
    )


@pytest.mark.parametrize("name", NAMES)
def test_published_counts(name: str) -> None:
    """torchvision's tables give both; the paper gives 15.47 and 15.48 billion for VGG-16."""
    published = pytest.importorskip("torchvision").models.get_model_weights(f"{name}_bn").DEFAULT.meta
    found = cost(on_meta(name))
    assert found.params == published["num_params"]
    assert found.macs / 1e9 == pytest.approx(published["_ops"], abs=6e-4)


def test_the_papers_counts() -> None:
    plain, attended = cost(on_meta("vgg16")), cost(on_meta("se_vgg16"))
    weights, biases = added_weights(WIDTHS16)
    assert plain.params == 138_365_992
    assert attended.params == plain.params + weights + biases
    assert attended.attention_params == weights + biases
    assert plain.macs == 15_470_264_320
    assert attended.macs == plain.macs + weights
    # Table 2: 15.47 -> 15.48; one product for each number of a map that is weighed makes the difference.
    assert round((attended.macs + rescaling_macs(on_meta("se_vgg16"))) / 1e9, 2) == 15.48
    assert round(plain.macs / 1e9, 2) == 15.47


def test_stages() -> None:
    info = MODELS["vgg16"].feature_info
    assert [(i.stage, i.channels, i.stride) for i in info] == [
        (1, 64, 1),
        (2, 128, 2),
        (3, 256, 4),
        (4, 512, 8),
        (5, 512, 16),
    ]
    assert attending(on_meta("se_vgg16")) == {1, 2, 3, 4, 5}
    assert attending(on_meta("se_vgg16", stages=(1, 4))) == {1, 4}
    assert attending(on_meta("vgg16")) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "depths=()"),
        ({"depths": (1, 0)}, "depths=(1, 0)"),
        ({"hidden": 0}, "hidden=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"stages": (0,)}, "no stage 0; the stages are numbered 1 to 5"),
        ({"stages": (6,)}, "no stage 6"),
        ({"placement": "pre"}, "placement='pre'"),
        ({"attention": senet.SE(reduction=65)}, "reduction=65 leaves no hidden unit for channels=64"),
        ({"output_stride": 32}, "output_stride=32"),
        ({"width": 2}, "width"),
    ],
    ids=str,
)
def test_impossible_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(monkeypatch, "se_vgg16", options, message)


def test_smallest_image_and_one_pixel_map() -> None:
    model = on_meta("se_vgg16").eval()
    assert model.forward_features(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 512, 2, 2)
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 1000)


def test_a_new_classifier_keeps_the_hidden_layers() -> None:
    images = pictures(2, (16, 12))
    model = randomise(on_meta("se_vgg11", **TINY), images)
    hidden = copy.deepcopy(model.head.hidden.state_dict())
    old = model.head.fc.weight
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)
    assert model.head.fc.weight.shape == (7, 16)
    assert model.head.fc.weight is not old
    assert all(torch.equal(model.head.hidden.state_dict()[key], value) for key, value in hidden.items())
    assert not model.head.training
    model.reset_classifier(0)
    pooled = model(images)
    assert pooled.shape == (2, model.num_features) == (2, 128)
    want = nn.functional.max_pool2d(model.forward_features(images), 2).mean((2, 3))
    torch.testing.assert_close(pooled, want)
    assert not any(key.startswith("head.") for key in model.state_dict())
    model.reset_classifier(3)
    assert model.train()(images).shape == (2, 3)


def test_fresh_convolutions_are_he() -> None:
    torch.manual_seed(0)
    model = senet.create_model("vgg11", depths=(1, 1, 1), hidden=8)
    conv = model.stages["3"][0].conv
    assert conv.weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert conv.bias.eq(0).all()


def test_copies_export_and_checkpointing() -> None:
    images = pictures(4, (16, 17), channels=1)
    model = randomise(on_meta("se_vgg11", in_channels=1, dropout=0.0, **TINY), images)
    want = model(images)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), want)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(images), want)
    again = copy.deepcopy(model)
    again.grad_checkpointing = True
    for other in (model, again):
        other.train()(images).square().sum().backward()
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert a.grad.abs().max() > 0, name
        assert torch.equal(a.grad, b.grad), name
