"""`create_model` and its options: names, checks before anything is allocated, attention, stages, classifier."""

from __future__ import annotations

import copy
import io
import json
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import senet
from senet.errors import UnknownNameError
from senet.models import MODELS, ModelSpec
from senet.models.resnet_cifar import ShakeSpec
from senet.nn import ATTENTIONS, PLACEMENTS, Attention
from senet.preprocessing import CIFAR, IMAGENET, IMAGENET_CAFFE
from senet.zoo import model_spec

TINY = {"depth": 1}
TINY_IMAGENET = {"depths": (1, 1), "num_classes": 5}


def _image(channels: int = 3, size: tuple[int, int] = (32, 32), count: int = 2) -> torch.Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(3))


def test_patterns() -> None:
    names = senet.list_models()
    assert names == sorted(MODELS)
    assert senet.list_models("senet*") == ["senet154"]
    assert senet.list_models("se_resnet*_v1_5") == [f"se_resnet{d}_v1_5" for d in (101, 152, 18, 34, 50)]
    assert senet.list_models("nothing*") == []
    assert {"se_wrn16_8", "wrn16_8"} == set(senet.list_models("*wrn16*"))


@pytest.mark.parametrize("name", ["se_resnet18", "senet154", "se_cifar_preresnet20", "se_shake_shake26_2x96d"])
def test_without_attention_the_other_keys_stay(name: str) -> None:
    attended = senet.create_model(name, device="meta").state_dict().keys()
    plain = senet.create_model(name, device="meta", attention=None).state_dict().keys()
    assert plain == {key for key in attended if ".se." not in key}


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'se_resnet51'; did you mean .*'se_resnet50'"):
        senet.create_model("se_resnet51")
    with pytest.raises(UnknownNameError, match=r"unknown option of se_resnet50 'num_clases'.*'num_classes'"):
        senet.create_model("se_resnet50", num_clases=3)
    with pytest.raises(UnknownNameError, match=r"unknown placement 'standart'.*'standard'"):
        senet.create_model("se_resnet50", placement="standart")
    with pytest.raises(UnknownNameError, match="option of se_resnet50"):
        MODELS["se_resnet50"].changed({"name": "mine"})


IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("resnet50", {"num_classes": -1}, "num_classes=-1"),
    ("resnet50", {"num_classes": 2.5}, "num_classes=2.5"),
    ("resnet50", {"num_classes": "10"}, "num_classes='10'"),
    ("resnet50", {"num_classes": None}, "num_classes=None"),
    ("resnet50", {"in_channels": 0}, "in_channels=0"),
    ("resnet50", {"attention": "se"}, "attention='se'"),
    ("resnet50", {"attention": 16}, "attention=16"),
    ("resnet50", {"num_classes": True}, "num_classes=True"),
    ("resnet50", {"depths": 3}, "depths=3"),
    ("resnet50", {"depths": (3, "4")}, "depths"),
    ("resnet50", {"bottleneck": 1}, "bottleneck=1"),
    ("resnet50", {"dropout": "0.2"}, "dropout='0.2'"),
    ("resnet50", {"preprocessing": None}, "preprocessing=None"),
    ("se_resnet50", {"stages": 2}, "stages=2"),
    ("cifar_resnet20", {"depth": "3"}, "depth='3'"),
    ("cifar_resnet20", {"depth": None}, "depth=None"),
    ("resnet50", {"depths": ()}, "depths"),
    ("resnet50", {"depths": (3, 0, 1, 1)}, "depths"),
    ("senet154", {"dropout": 1.0}, "dropout=1.0"),
    ("senet154", {"dropout": -0.1}, "dropout=-0.1"),
    ("se_resnet50", {"stages": (1,)}, "no stage 1; the stages are numbered 2 to 5"),
    ("se_resnet50", {"stages": (2, 6)}, "no stage 6"),
    ("se_cifar_resnet20", {"stages": (5,)}, "no stage 5; the stages are numbered 2 to 4"),
    ("cifar_resnet20", {"depth": 0}, "depth=0"),
    ("cifar_resnet20", {"widths": ()}, "widths"),
    ("cifar_resnet20", {"widths": (16, 0, 64)}, "widths"),
    ("cifar_resnet20", {"attention": senet.SE(reduction=17)}, "reduction=17 leaves no hidden unit for channels=16"),
    ("se_shake_shake26_2x96d", {"attention": senet.SE(reduction=17), "placement": "pre"}, "channels=16"),
    ("se_resnet18", {"placement": 3}, "placement"),
    ("resnext50_32x4d", {"groups": 0}, "groups=0"),
    ("resnext50_32x4d", {"group_width": 0}, "group_width=0"),
    ("resnet18", {"groups": 2}, "groups=2"),
    ("shake_even29_2x4x64d", {"groups": 0}, "groups=0"),
    ("shake_shake26_2x96d", {"groups": 2}, "groups=2"),
    ("resnet18", {"halve_first": True}, "halve_first"),
    ("senet154", {"group_width": 3}, "group_width=3"),
    ("resnet50", {"projection_kernel": 2}, "projection_kernel=2"),
    ("se_resnet50", {"branch_relu": True}, "branch_relu=True is for two-convolution blocks"),
    ("se_resnet18", {"branch_relu": True, "placement": "conv3x3"}, "a placement other than conv3x3"),
]


@pytest.mark.parametrize(("name", "options", "message"), IMPOSSIBLE, ids=lambda v: str(v).replace(" ", ""))
def test_an_impossible_value_is_told_before_anything_is_made(
    name: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a convolution was made")

    monkeypatch.setattr(nn.Conv2d, "__init__", forbidden)
    with pytest.raises(senet.SenetError, match=message.replace("(", r"\(")):
        senet.create_model(name, **options)


def test_classes_may_be_none_at_all() -> None:
    model = senet.create_model("se_cifar_resnet20", num_classes=0, **TINY).eval()
    features = model(_image())
    assert features.shape == (2, model.num_features) == (2, 64)
    assert torch.equal(features, model.forward_features(_image()).mean((2, 3)))
    assert not any(key.startswith("head.") for key in model.state_dict())


@pytest.mark.parametrize("name", ["se_cifar_resnet20", "se_wrn16_8", "shake_shake26_2x96d", "shake_even29_2x4x64d"])
def test_other_image_channels(name: str) -> None:
    small = TINY | {"widths": (16, 32)}
    for channels in (1, 4):
        model = senet.create_model(name, in_channels=channels, num_classes=3, **small).eval()
        assert model(_image(channels)).shape == (2, 3)


@pytest.mark.parametrize("name", ["se_resnet18", "senet154"])
def test_other_image_channels_in_both_stems(name: str) -> None:
    model = senet.create_model(name, in_channels=1, groups=1, **TINY_IMAGENET).eval()
    assert model(_image(1)).shape == (2, 5)


def test_reset_classifier() -> None:
    model = senet.create_model("se_resnet18", dropout=0.3, **TINY_IMAGENET).double().eval()
    before = model.forward_features(_image().double())
    old = model.head.fc.weight
    model.reset_classifier(7)
    assert model(_image().double()).shape == (2, 7)
    assert model.spec.num_classes == 7
    assert model.head.fc.weight is not old
    assert model.head.fc.weight.dtype == torch.float64
    assert model.head.dropout.p == 0.3
    assert not model.head.training
    assert torch.equal(model.forward_features(_image().double()), before)
    model.reset_classifier(0)
    assert model(_image().double()).shape == (2, 128)
    with pytest.raises(senet.SenetError, match="num_classes=-2"):
        model.reset_classifier(-2)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (65, 40), (64, 31)])
@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet50_v1_5", "senet154"])
def test_odd_sizes(name: str, size: tuple[int, int]) -> None:
    model = senet.create_model(name, groups=1, **TINY_IMAGENET).eval()
    assert model(_image(size=size)).isfinite().all()


@pytest.mark.parametrize("size", [(32, 32), (27, 41), (9, 8)])
@pytest.mark.parametrize("name", ["se_cifar_resnet20", "se_cifar_preresnet164", "se_wrn16_8", "se_shake_shake26_2x96d"])
def test_odd_sizes_of_small_images(name: str, size: tuple[int, int]) -> None:
    model = senet.create_model(name, widths=(16, 32, 64), **TINY).eval()
    assert model(_image(size=size)).isfinite().all()


@pytest.mark.parametrize("kind", sorted(ATTENTIONS))
def test_every_attention_swaps_in(kind: str) -> None:
    spec = ATTENTIONS[kind]()
    model = senet.create_model("cifar_resnet20", attention=spec, widths=(32, 64, 128), **TINY)
    blocks = [unit.se for stage in model.stages.values() for unit in stage]
    assert len(blocks) == 3
    assert all(isinstance(block, Attention) for block in blocks)
    model(_image()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    reread = model_spec("cifar_resnet20").changed(
        json.loads(json.dumps(model.spec.differences(MODELS["cifar_resnet20"])))
    )
    assert reread == model.spec


@pytest.mark.parametrize("chosen", [(2,), (3, 4), (), None])
def test_stages_choose(chosen: tuple[int, ...] | None) -> None:
    model = senet.create_model("se_cifar_resnet20", stages=chosen, **TINY)
    attended = {int(name) for name, stage in model.stages.items() if isinstance(stage[0].se, Attention)}
    assert attended == set((2, 3, 4) if chosen is None else chosen)


_SPECS = st.fixed_dictionaries(
    {},
    optional={
        "num_classes": st.integers(0, 2000),
        "in_channels": st.integers(1, 8),
        "attention": st.one_of(
            st.none(),
            st.builds(
                senet.SE,
                reduction=st.integers(1, 16),
                hidden_channels=st.none() | st.integers(1, 9),
                bias=st.booleans(),
                gate=st.sampled_from(["sigmoid", "tanh"]),
            ),
            st.just(senet.ECA()),
        ),
        "placement": st.sampled_from(sorted(PLACEMENTS)),
        "stages": st.none() | st.lists(st.sampled_from([2, 3, 4]), unique=True).map(tuple),
        "preprocessing": st.sampled_from([CIFAR, IMAGENET, IMAGENET_CAFFE]),
        "depth": st.integers(1, 30),
        "widths": st.tuples(*[st.integers(16, 64)] * 3),
        "bottleneck": st.booleans(),
    },
)


@given(
    name=st.sampled_from(["cifar_resnet20", "se_cifar_resnet20", "se_wrn16_8", "shake_even29_2x4x64d"]), options=_SPECS
)
def test_differences_round_trip_through_json(name: str, options: dict[str, Any]) -> None:
    base = MODELS[name]
    if isinstance(base, ShakeSpec):
        options.pop("bottleneck", None)
    spec = base.changed(options)
    listed = json.loads(json.dumps(spec.differences(base)))
    assert base.changed(listed) == spec
    assert set(listed) <= set(options)
    assert spec.differences(spec) == {}
    assert spec.name == name


def test_a_spec_is_frozen_and_hashable() -> None:
    spec = model_spec("se_resnet50")
    assert hash(spec) == hash(model_spec("se_resnet50"))
    with pytest.raises(AttributeError):
        spec.num_classes = 3  # type: ignore[misc]
    assert spec == MODELS["se_resnet50"]


def test_lists_as_json_has_them_are_taken() -> None:
    spec = model_spec("se_resnet50", depths=[1, 1], stages=[2], attention={"kind": "se", "reduction": 8})
    assert spec == model_spec("se_resnet50", depths=(1, 1), stages=(2,), attention=senet.SE(reduction=8))


COPIES = ["se_resnet18", "se_cifar_preresnet20", "se_shake_shake26_2x96d"]


def _small(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = TINY_IMAGENET if name == "se_resnet18" else TINY | {"widths": (16, 32)}
    return senet.create_model(name, **options)


@pytest.mark.parametrize("name", COPIES)
def test_copies(name: str) -> None:
    model = _small(name).eval()
    want = model(_image())
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(saved, weights_only=False)]
    for other in copies:
        assert torch.equal(other(_image()), want)
        assert other.spec == model.spec
    with torch.no_grad():
        copies[0].head.fc.bias.add_(1)
    assert torch.equal(model(_image()), want)


@pytest.mark.parametrize("name", COPIES)
def test_channels_last(name: str) -> None:
    model = _small(name).eval().double()
    want = model(_image().double())
    got = model.to(memory_format=torch.channels_last)(_image().double().to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", COPIES)
def test_export_with_any_batch(name: str) -> None:
    model = _small(name).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (_image(),), dynamic_shapes=({0: batch},)).module()
    for count in (1, 2, 5):
        images = _image(count=count)
        torch.testing.assert_close(program(images), model(images), rtol=1e-5, atol=1e-5)


def test_initialisation_is_reproducible_and_he() -> None:
    first, second = _small("se_resnet18"), _small("se_resnet18")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    weight = senet.create_model("resnet50", depths=(1,)).stages["2"][0].branch.conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_a_network_of_ones_own_spec() -> None:
    spec: ModelSpec = MODELS["se_cifar_resnet20"].changed({"depth": 1, "widths": [16]})
    assert spec.build()(_image()).shape == (2, 10)
