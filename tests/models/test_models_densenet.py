"""DenseNet: torchvision's networks, SE on each layer's new channels."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from by_hand import (
    added_weights,
    assert_differ,
    assert_equal,
    assert_refused,
    attending,
    on_meta,
    torchvision_model,
    units_of,
)
from peers import Naming, pictures, randomise
from torch import nn

import senet
from senet.models import MODELS
from senet.profiling import cost

NAMES = ("densenet121", "densenet169", "densenet201")
SMALL, ODD = (33, 47), (75, 93)
TINY: dict[str, Any] = {"depths": (1, 2, 1), "growth": 16, "num_classes": 5}

TORCHVISION_DENSENET = Naming(
    unit=r"features\.denseblock(\d)\.denselayer(\d+)\.",
    first=(1, 1),
    inside={
        r"norm1\.(.+)": r"branch.0.\1",
        r"conv1\.(.+)": r"branch.2.\1",
        r"norm2\.(.+)": r"branch.3.\1",
        r"conv2\.(.+)": r"branch.5.\1",
    },
    outside={
        r"features\.conv0\.(.+)": r"stem.0.\1",
        r"features\.norm0\.(.+)": r"stem.1.\1",
        **{rf"features\.transition{n}\.norm\.(.+)": rf"stages.{n + 2}.0.transition.0.\1" for n in (1, 2, 3)},
        **{rf"features\.transition{n}\.conv\.(.+)": rf"stages.{n + 2}.0.transition.2.\1" for n in (1, 2, 3)},
        r"features\.norm5\.(.+)": r"final.0.\1",
        r"classifier\.(.+)": r"head.fc.\1",
    },
)


def _insertion_points(peer: nn.Module) -> list[nn.Module]:
    return [m for path, m in peer.named_modules() if path.endswith(".conv2")]


@pytest.mark.parametrize(
    ("name", "size"), [("densenet121", ODD), pytest.param("densenet201", SMALL, marks=pytest.mark.slow)]
)
def test_torchvision(name: str, size: tuple[int, int], record_property: Callable[..., None]) -> None:
    assert_equal(on_meta(name), torchvision_model(name), TORCHVISION_DENSENET.translate, size, record_property)


@pytest.mark.parametrize(
    ("name", "size"),
    [("densenet121", (224, 224)), ("densenet121", SMALL), pytest.param("densenet169", SMALL, marks=pytest.mark.slow)],
)
def test_torchvision_with_se_on_the_new_channels(
    name: str, size: tuple[int, int], record_property: Callable[..., None]
) -> None:
    peer, ours = torchvision_model(name), on_meta(f"se_{name}", attention=senet.SE(reduction=4))
    translate, small = TORCHVISION_DENSENET.translate, size == SMALL
    assert_equal(ours, peer, translate, size, record_property, _insertion_points(peer), double=small)


def test_the_comparison_sees_two_blocks_swapped() -> None:
    peer, ours = torchvision_model("densenet121"), on_meta("se_densenet121")
    sites = _insertion_points(peer)
    assert_differ(ours, peer, TORCHVISION_DENSENET.translate, ODD, [sites[1], sites[0], *sites[2:]])


def test_the_running_concatenation_is_left_alone() -> None:
    """What a layer gets it hands on bit for bit; what it adds is its branch, weighed once."""
    images = pictures(2, (40, 40))
    model = randomise(on_meta("se_densenet121", **TINY), images)
    unit = units_of(model)[2]
    x = pictures(2, (9, 9), channels=40)
    with torch.no_grad():
        out, new = unit(x), unit.branch(x)
        assert torch.equal(out[:, :40], x)
        assert torch.equal(out[:, 40:], new * unit.se.gate(new))
        assert not torch.allclose(out[:, 40:], new, atol=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_published_counts(name: str) -> None:
    published = pytest.importorskip("torchvision").models.get_model_weights(name).DEFAULT.meta
    found = cost(on_meta(name))
    assert found.params == published["num_params"]
    assert found.macs / 1e9 == pytest.approx(published["_ops"], abs=6e-4)


def test_counts_with_se() -> None:
    plain, attended = cost(on_meta("densenet121")), cost(on_meta("se_densenet121"))
    assert plain.params == 7_978_856
    weights, biases = added_weights([32] * (6 + 12 + 24 + 16))
    assert attended.params - plain.params == attended.attention_params == weights + biases == 9_396
    assert attended.macs - plain.macs == weights
    units = [unit.out_channels for stage in MODELS["densenet121"].blocks() for unit in stage]
    blocks = [stage[-1].out_channels for stage in MODELS["densenet121"].blocks()]
    # The placements that its docstring decides against.
    assert sum(added_weights(blocks)) == 306_096
    assert sum(added_weights(units)) == 2_959_622


def test_stages() -> None:
    info = MODELS["densenet121"].feature_info
    assert [(i.stage, i.channels, i.stride) for i in info] == [(2, 256, 4), (3, 512, 8), (4, 1024, 16), (5, 1024, 32)]
    units = MODELS["densenet121"].blocks()
    assert [(u.in_channels, u.out_channels, u.stride) for u in units[0][:2]] == [(64, 96, 1), (96, 128, 1)]
    assert [(u.in_channels, u.out_channels, u.stride) for u in units[1][:2]] == [(256, 160, 2), (160, 192, 1)]
    assert attending(on_meta("se_densenet121")) == {2, 3, 4, 5}
    assert attending(on_meta("se_densenet121", stages=(3, 5))) == {3, 5}
    assert attending(on_meta("densenet121")) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "depths=()"),
        ({"depths": (1, 0)}, "depths=(1, 0)"),
        ({"growth": 0}, "growth=0"),
        ({"growth": 12}, "reduction=16 leaves no hidden unit for channels=12"),
        ({"attention": senet.SE(reduction=33)}, "reduction=33 leaves no hidden unit for channels=32"),
        ({"stages": (1,)}, "no stage 1; the stages are numbered 2 to 5"),
        ({"placement": "post"}, "placement='post'"),
    ],
    ids=str,
)
def test_impossible_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(monkeypatch, "se_densenet121", options, message)


def test_smallest_image() -> None:
    model = on_meta("se_densenet121").eval()
    assert model.forward_features(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 1024, 1, 1)
    assert model(torch.empty(2, 3, 47, 33, device="meta")).shape == (2, 1000)


def test_copies_classifier_export_and_checkpointing() -> None:
    images = pictures(4, (37, 42), channels=1)
    model = randomise(on_meta("se_densenet121", in_channels=1, **TINY), images)
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
    model.eval().reset_classifier(0)
    features = model(images)
    assert features.shape == (4, model.num_features)
    assert torch.equal(features, model.forward_features(images).mean((2, 3)))
    model.reset_classifier(2)
    assert model(images).shape == (4, 2)
