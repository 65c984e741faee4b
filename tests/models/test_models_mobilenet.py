"""MobileNet: pytorchcv's and timm's networks, the papers' counts, SE after each separable convolution."""

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
    pytorchcv_model,
    rescaling_macs,
)
from peers import Naming, pictures, randomise
from torch import nn

from senet.models import MODELS
from senet.profiling import cost

SMALL, ODD = (32, 40), (75, 93)
TINY: dict[str, Any] = {"depths": (1, 2, 1), "width": 0.5, "num_classes": 5}
PEERS = {
    "mobilenet_v1": "mobilenet_w1",
    "mobilenet_v1_075": "mobilenet_w3d4",
    "mobilenet_v1_050": "mobilenet_wd2",
    "mobilenet_v1_025": "mobilenet_wd4",
}

PYTORCHCV_MOBILENET = Naming(
    unit=r"features\.stage(\d)\.unit(\d+)\.",
    first=(2, 1),  # our first stage is 1
    inside={
        r"dw_conv\.conv\.(.+)": r"depthwise.0.\1",
        r"dw_conv\.bn\.(.+)": r"depthwise.1.\1",
        r"pw_conv\.conv\.(.+)": r"pointwise.0.\1",
        r"pw_conv\.bn\.(.+)": r"pointwise.1.\1",
    },
    outside={
        r"features\.init_block\.conv\.(.+)": r"stem.0.\1",
        r"features\.init_block\.bn\.(.+)": r"stem.1.\1",
        r"output\.(.+)": r"head.fc.\1",
    },
)

TIMM_MOBILENET = Naming(
    unit=r"blocks\.(\d)\.(\d+)\.",
    first=(1, 0),
    inside={
        r"conv_dw\.(.+)": r"depthwise.0.\1",
        r"bn1\.(.+)": r"depthwise.1.\1",
        r"conv_pw\.(.+)": r"pointwise.0.\1",
        r"bn2\.(.+)": r"pointwise.1.\1",
    },
    outside={
        r"conv_stem\.(.+)": r"stem.0.\1",
        r"bn1\.(.+)": r"stem.1.\1",
        r"classifier\.(.+)": r"head.fc.\1",
    },
)


def _timm(act_layer: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        return timm.create_model("mobilenetv1_100", act_layer=act_layer)


def _insertion_points(peer: nn.Module) -> list[nn.Module]:
    return [m for path, m in peer.named_modules() if ".unit" in path and path.count(".") == 2]


@pytest.mark.parametrize(
    ("name", "size"), [pytest.param("mobilenet_v1", ODD, marks=pytest.mark.slow), ("mobilenet_v1_025", (224, 224))]
)
def test_pytorchcv(name: str, size: tuple[int, int], record_property: Callable[..., None]) -> None:
    peer = pytorchcv_model(PEERS[name], any_size=size != (224, 224))
    assert_equal(on_meta(name), peer, PYTORCHCV_MOBILENET.translate, size, record_property)


@pytest.mark.parametrize(("name", "size"), [("mobilenet_v1", (224, 224)), ("mobilenet_v1_050", ODD)])
def test_pytorchcv_with_se_after_each_unit(
    name: str, size: tuple[int, int], record_property: Callable[..., None]
) -> None:
    peer = pytorchcv_model(PEERS[name], any_size=size != (224, 224))
    ours, sites = on_meta(f"se_{name}"), _insertion_points(peer)
    assert_equal(ours, peer, PYTORCHCV_MOBILENET.translate, size, record_property, sites, double=size == ODD)


@pytest.mark.slow
def test_timm_with_the_papers_activation(record_property: Callable[..., None]) -> None:
    assert_equal(on_meta("mobilenet_v1"), _timm("relu"), TIMM_MOBILENET.translate, ODD, record_property)


def test_timms_own_activation(record_property: Callable[..., None]) -> None:
    """ReLU6 cuts at 6, the paper's ReLU nowhere, and the comparison sees it."""
    cut = on_meta("mobilenet_v1", activation="relu6")
    assert_equal(cut, _timm("relu6"), TIMM_MOBILENET.translate, ODD, record_property)
    assert_differ(on_meta("mobilenet_v1"), _timm("relu6"), TIMM_MOBILENET.translate, ODD)


def test_the_comparison_sees_se_between_the_convolutions() -> None:
    """Where a block keeps its channels the weights would fit there too."""
    peer = pytorchcv_model("mobilenet_wd2", any_size=True)
    sites = _insertion_points(peer)
    sites[2] = sites[2].dw_conv
    ours = on_meta("se_mobilenet_v1_050")
    assert_differ(ours, peer, PYTORCHCV_MOBILENET.translate, ODD, sites)


@pytest.mark.parametrize(
    ("name", "params", "mega_macs", "millions"),
    [
        ("mobilenet_v1", 4_231_976, 569, 4.2),
        ("mobilenet_v1_075", 2_585_560, 325, 2.6),
        ("mobilenet_v1_050", 1_331_592, 149, 1.3),
        ("mobilenet_v1_025", 470_072, 41, 0.5),
    ],
)
def test_published_counts(name: str, params: int, mega_macs: int, millions: float) -> None:
    """Howard et al., Table 6; the exact numbers of parameters are pytorchcv's."""
    found = cost(on_meta(name))
    assert found.params == params
    assert round(params / 1e6, 1) == millions
    assert round(found.macs / 1e6) == mega_macs


def test_the_papers_counts_with_se() -> None:
    """Hu et al., Table 3: 569 -> 572 million operations, 4.2 -> 4.7 million parameters."""
    plain, attended = cost(on_meta("mobilenet_v1")), cost(on_meta("se_mobilenet_v1"))
    widths = [64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    weights, biases = added_weights(widths)
    assert attended.params - plain.params == weights + biases == 486_068
    assert attended.macs - plain.macs == weights == 479_744
    assert round(attended.params / 1e6, 1) == 4.7
    whole = attended.macs + rescaling_macs(on_meta("se_mobilenet_v1"))
    assert round(whole / 1e6, 1) == 571.9


def test_stages() -> None:
    info = MODELS["mobilenet_v1_050"].feature_info
    assert [(i.stage, i.channels, i.stride) for i in info] == [
        (1, 32, 2),
        (2, 64, 4),
        (3, 128, 8),
        (4, 256, 16),
        (5, 512, 32),
    ]
    assert attending(on_meta("se_mobilenet_v1")) == {1, 2, 3, 4, 5}
    assert attending(on_meta("se_mobilenet_v1", stages=(2,))) == {2}
    assert attending(on_meta("mobilenet_v1")) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "depths=()"),
        ({"depths": (1, 0)}, "depths=(1, 0)"),
        ({"width": 0.0}, "width=0.0 must be a positive number"),
        ({"width": -1}, "width=-1"),
        ({"width": float("nan")}, "width=nan"),
        ({"width": float("inf")}, "width=inf"),
        ({"width": True}, "width=True"),
        ({"width": 0.03}, "width=0.03 leaves no channel of 32"),
        ({"width": 0.2}, "reduction=16 leaves no hidden unit for channels=12"),
        ({"activation": "relu7"}, "unknown activation 'relu7'"),
        ({"activation": None}, "activation=None must be str"),
        ({"stages": (6,)}, "no stage 6; the stages are numbered 1 to 5"),
        ({"placement": "pre"}, "placement='pre'"),
    ],
    ids=str,
)
def test_impossible_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(monkeypatch, "se_mobilenet_v1", options, message)


def test_a_fraction_of_a_channel_is_cut_off() -> None:
    spec = MODELS["mobilenet_v1"].changed({"width": 0.3})
    assert [info.channels for info in spec.feature_info] == [19, 38, 76, 153, 307]


def test_smallest_image() -> None:
    model = on_meta("se_mobilenet_v1").eval()
    assert model.forward_features(torch.empty(2, 3, 1, 1, device="meta")).shape == (2, 1024, 1, 1)
    assert model(torch.empty(2, 3, 33, 17, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize("activation", ["relu", pytest.param("relu6", marks=pytest.mark.slow)])
def test_copies_classifier_export_and_checkpointing(activation: str) -> None:
    images = pictures(4, (21, 18), channels=1)
    model = randomise(on_meta("se_mobilenet_v1", in_channels=1, activation=activation, **TINY), images)
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
