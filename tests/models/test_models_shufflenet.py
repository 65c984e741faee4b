"""ShuffleNet: pytorchcv's networks, the papers' counts, SE on the branch before the sum or concatenation."""

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
from torch import Tensor, nn

import senet
from senet.models import MODELS
from senet.models.shufflenet_v1 import shuffle
from senet.profiling import cost

SMALL, ODD = (47, 33), (75, 93)
TINY: dict[str, Any] = {"depths": (2, 2), "num_classes": 5}

PYTORCHCV_SHUFFLENET = Naming(
    unit=r"features\.stage(\d)\.unit(\d+)\.",
    first=(1, 1),
    inside={r"(?:compress|dw|expand)_(conv|bn)(\d)\.(.+)": r"\1\2.\3"},
    outside={
        r"features\.init_block\.conv\.(.+)": r"stem.0.\1",
        r"features\.init_block\.bn\.(.+)": r"stem.1.\1",
        r"output\.(.+)": r"head.fc.\1",
    },
)


def _insertion_points(peer: nn.Module) -> list[nn.Module]:
    return [m for path, m in peer.named_modules() if path.endswith(".expand_bn3")]


@pytest.mark.parametrize(
    ("groups", "width", "peer_name", "size"),
    [
        (2, 1.0, "shufflenet_g2_w1", ODD),
        (1, 0.25, "shufflenet_g1_wd4", (224, 224)),
        pytest.param(1, 1.0, "shufflenet_g1_w1", SMALL, marks=pytest.mark.slow),
        pytest.param(4, 1.0, "shufflenet_g4_w1", SMALL, marks=pytest.mark.slow),
        pytest.param(3, 0.5, "shufflenet_g3_wd2", ODD, marks=pytest.mark.slow),
    ],
)
def test_pytorchcv(
    groups: int, width: float, peer_name: str, size: tuple[int, int], record_property: Callable[..., None]
) -> None:
    peer = pytorchcv_model(peer_name, any_size=size != (224, 224))
    ours = on_meta(f"shufflenet_v1_g{groups}", width=width)
    assert_equal(ours, peer, PYTORCHCV_SHUFFLENET.translate, size, record_property)


@pytest.mark.parametrize(("groups", "size"), [(3, (224, 224)), (3, ODD), (8, SMALL)])
def test_pytorchcv_with_se_on_the_branch(
    groups: int, size: tuple[int, int], record_property: Callable[..., None]
) -> None:
    peer = pytorchcv_model(f"shufflenet_g{groups}_w1", any_size=size != (224, 224))
    ours, sites = on_meta(f"se_shufflenet_v1_g{groups}"), _insertion_points(peer)
    assert_equal(ours, peer, PYTORCHCV_SHUFFLENET.translate, size, record_property, sites, double=size != (224, 224))


def _swapped(unit: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    pooled = args[0].shape[1]
    return torch.cat((out[:, -pooled:], out[:, :-pooled]), 1)


def test_the_comparison_sees_the_order_of_a_concatenation() -> None:
    peer = pytorchcv_model("shufflenet_g3_w1", any_size=True)
    peer.features.stage2.unit1.register_forward_hook(_swapped)
    assert_differ(on_meta("shufflenet_v1_g3"), peer, PYTORCHCV_SHUFFLENET.translate, ODD)


def test_the_comparison_sees_the_direction_of_the_shuffle() -> None:
    peer = pytorchcv_model("shufflenet_g3_w1", any_size=True)
    shuffled = peer.features.stage3.unit2.c_shuffle
    shuffled.groups = 120 // 3
    assert_differ(on_meta("shufflenet_v1_g3"), peer, PYTORCHCV_SHUFFLENET.translate, ODD)


def test_a_shuffle_deals_out() -> None:
    channels = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffle(channels, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(shuffle(shuffle(channels, 3), 2), channels)


@pytest.mark.parametrize(
    ("groups", "params", "mega_macs"),
    [(1, 1_531_936, 143), (2, 1_733_848, 140), (3, 1_865_728, 137), (4, 1_968_344, 133), (8, 2_434_768, 137)],
)
def test_published_counts(groups: int, params: int, mega_macs: int) -> None:
    """Parameters as in pytorchcv; multiply-accumulates as in Zhang et al., Table 1, whose counting is not told."""
    found = cost(on_meta(f"shufflenet_v1_g{groups}"))
    assert found.params == params
    assert found.macs / 1e6 == pytest.approx(mega_macs, rel=0.011)


def test_the_papers_counts_with_se() -> None:
    """Hu et al., Table 3: 140 -> 142 million operations, 1.8 -> 2.4 million parameters (both cut off)."""
    plain, attended = cost(on_meta("shufflenet_v1_g3")), cost(on_meta("se_shufflenet_v1_g3"))
    widths = [216, *[240] * 3, 240, *[480] * 7, 480, *[960] * 3]
    weights, biases = added_weights(widths)
    assert attended.params - plain.params == weights + biases == 618_805
    assert attended.macs - plain.macs == weights == 610_416
    assert (int(plain.params / 1e5), int(attended.params / 1e5)) == (18, 24)
    more = attended.macs - plain.macs + rescaling_macs(on_meta("se_shufflenet_v1_g3"))
    assert round(more / 1e6) == 2


def test_stages() -> None:
    info = MODELS["shufflenet_v1_g3"].feature_info
    assert [(i.stage, i.channels, i.stride) for i in info] == [(2, 240, 8), (3, 480, 16), (4, 960, 32)]
    assert attending(on_meta("se_shufflenet_v1_g3")) == {2, 3, 4}
    assert attending(on_meta("se_shufflenet_v1_g3", stages=(4,))) == {4}
    assert attending(on_meta("shufflenet_v1_g3")) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 5}, "groups=5 must be one of 1, 2, 3, 4, 8"),
        ({"groups": 0}, "groups=0"),
        ({"depths": ()}, "depths=()"),
        ({"depths": (4, 0, 4)}, "depths=(4, 0, 4)"),
        ({"width": 0}, "width=0 must be a positive number"),
        ({"width": 0.04}, "width=0.04 leaves no channel of 24"),
        ({"width": 0.3}, "width=0.3: 65 channels aren't divisible by groups=3"),
        ({"attention": senet.SE(reduction=217)}, "reduction=217 leaves no hidden unit for channels=216"),
        ({"stages": (5,)}, "no stage 5; the stages are numbered 2 to 4"),
        ({"placement": "pre"}, "placement='pre'"),
    ],
    ids=str,
)
def test_impossible_options(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(monkeypatch, "se_shufflenet_v1_g3", options, message)


@pytest.mark.parametrize(
    ("groups", "width"),
    [*((g, w) for g in (1, 3) for w in (0.25, 0.5, 0.75, 1.5, 2)), (2, 2), (4, 2), (8, 2.0)],
)
def test_widths_that_divide(groups: int, width: float) -> None:
    spec = MODELS[f"shufflenet_v1_g{groups}"].changed({"width": width})
    with torch.device("meta"):
        assert spec.build().eval()(torch.empty(1, 3, 32, 32)).shape == (1, 1000)
    assert spec.feature_info[-1].channels == int(MODELS[f"shufflenet_v1_g{groups}"].feature_info[-1].channels * width)


def test_depths_of_one() -> None:
    """Then no block without a stride says what the next stage's groups must divide."""
    spec = MODELS["shufflenet_v1_g3"]
    assert spec.changed({"depths": (1, 1)}).feature_info[-1].channels == 480
    with pytest.raises(senet.SenetError, match="aren't divisible by groups=3"):
        spec.changed({"depths": (1, 1), "width": 0.7})


def test_smallest_image() -> None:
    model = on_meta("se_shufflenet_v1_g3").eval()
    assert model.forward_features(torch.empty(2, 3, 1, 1, device="meta")).shape == (2, 960, 1, 1)
    assert model(torch.empty(2, 3, 33, 17, device="meta")).shape == (2, 1000)


def test_copies_classifier_export_and_checkpointing() -> None:
    images = pictures(4, (21, 38), channels=1)
    model = randomise(on_meta("se_shufflenet_v1_g3", in_channels=1, **TINY), images)
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
