"""What every network of `list_models()` must do: one contract, whatever the family.

By default it runs on the smallest network of each kind, and where that takes long, on that network with two blocks a
stage at most. All networks as they are, and the large kinds, are marked slow.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
import torch
from peers import pictures, randomise
from torch import Tensor, nn

import senet
from senet.models import MODELS, Backbone, ConvNet, ModelSpec
from senet.models.spec import OUTPUT_STRIDES

NAMES = senet.list_models()
LARGE = 12_000_000
"""Roughly counted weights above which a network is left to the slow tests."""


def _weight(spec: ModelSpec) -> int:
    """About how large it is, without building it."""
    return sum(u.inner_channels * (u.in_channels + u.out_channels) for stage in spec.blocks() for u in stage)


def _kind(spec: ModelSpec) -> tuple[Any, ...]:
    """What tells networks apart that differ by more than depth and width."""
    flags = [getattr(spec, f.name) for f in fields(spec)]
    return type(spec), spec.attention, getattr(spec, "groups", 1) > 1, *(v for v in flags if isinstance(v, bool))


def _smallest() -> set[str]:
    kinds: dict[tuple[Any, ...], str] = {}
    for name in sorted(NAMES, key=lambda name: (_weight(MODELS[name]), name)):
        kinds.setdefault(_kind(MODELS[name]), name)
    return set(kinds.values())


SMALLEST = _smallest()
FAMILIES = {type(MODELS[n]): n for n in sorted(SMALLEST, key=lambda n: (-_weight(MODELS[n]), n)) if n.startswith("se_")}


def _shallow(name: str) -> dict[str, Any]:
    """Options that leave two blocks a stage at most, and small hidden layers: the structure stays."""
    spec = MODELS[name]
    less = {
        "depths": lambda depths: tuple(min(d, 2) for d in depths),
        "depth": lambda d: min(d, 2),
        "hidden": lambda _: 64,
    }
    return {field: cut(getattr(spec, field)) for field, cut in less.items() if hasattr(spec, field)}


def _cases(chosen: set[str], *, limit: int = LARGE) -> list[Any]:
    """Name and options: the chosen networks made shallow, unless they are large still; marked slow, all as they are."""
    shallow = {name: _shallow(name) for name in NAMES if name in chosen}
    return [
        *(
            pytest.param(name, options, id=f"{name}-shallow")
            for name, options in shallow.items()
            if _weight(MODELS[name].changed(options)) < limit
        ),
        *(pytest.param(name, {}, id=name, marks=pytest.mark.slow) for name in NAMES),
    ]


ATTENDED = {name for name in SMALLEST if MODELS[name].attention is not None} | {"cifar_resnet20"}
"""What computes: a plain network is its twin less one module (looked at below), so one of them will do."""

EACH_KIND = _cases(SMALLEST, limit=sys.maxsize)
"""What hangs neither on depth nor on width."""

EACH_FAMILY = _cases(set(FAMILIES.values()), limit=sys.maxsize)
"""What hangs on the stem and the classifier alone, which a family shares."""


def _side(spec: ModelSpec) -> int:
    """A small image that leaves a map larger than 1x1."""
    return {32: 16, 224: 64}.get(spec.preprocessing.size[0], 139)


@cache
def _meta(name: str, **options: Any) -> ConvNet:
    return senet.create_model(name, device="meta", **options).eval()


def _image(spec: ModelSpec, count: int = 2, channels: int = 3, side: int | None = None) -> Tensor:
    side = side or _side(spec)
    return torch.empty(count, channels, side, side, device="meta")


# Shapes.


@pytest.mark.parametrize(("name", "options"), EACH_KIND)
def test_it_builds_and_runs_on_the_meta_device(name: str, options: dict[str, Any]) -> None:
    model = _meta(name, **options)
    assert isinstance(model, ConvNet)
    assert model.spec.name == name
    assert model(_image(model.spec)).shape == (2, model.spec.num_classes)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


@pytest.mark.parametrize(("name", "options"), EACH_FAMILY)
def test_other_image_channels_and_classes(name: str, options: dict[str, Any]) -> None:
    model = senet.create_model(name, device="meta", in_channels=1, num_classes=0, **options).eval()
    image = _image(model.spec, channels=1)
    pooled = model(image)
    assert pooled.ndim == 2
    found, usual = model.state_dict(), _meta(name, **options).state_dict()
    assert found.keys() <= usual.keys()
    changed = [key for key, tensor in found.items() if tensor.shape != usual[key].shape]
    assert len(changed) == 1, "the first convolution alone depends on the image's channels"
    model.reset_classifier(7)
    assert model(image).shape == (2, 7)
    assert model.spec.num_classes == 7
    model.reset_classifier(0)
    assert model(image).shape == pooled.shape


@pytest.mark.parametrize(("name", "options"), EACH_KIND)
def test_maps_are_known_before_running(name: str, options: dict[str, Any]) -> None:
    model = _meta(name, **options)
    backbone = Backbone(model)
    side = 256
    maps = backbone(_image(model.spec, side=side))
    last = model.forward_features(_image(model.spec, side=side))
    assert maps[-1].shape == last.shape
    assert model.num_features == last.shape[1]
    assert len(maps) == len(model.feature_info) == len(model.stages)
    for found, info in zip(maps, model.feature_info, strict=True):
        assert found.shape[1] == info.channels
        # Unpadded convolutions (Inception-v3, Inception-ResNet-v2) cut off a few pixels.
        missing = 3 if model.spec.preprocessing.size[0] == 299 else 0
        assert side // info.stride - missing <= found.shape[2] == found.shape[3] <= side // info.stride
    strides = [info.stride for info in model.feature_info]
    assert strides == sorted(strides)
    assert not any(key.startswith("head.") for key in backbone.state_dict())


PLAIN = [name for name in NAMES if MODELS[name].attention is None]
TWINS = {name.removeprefix("se_") for name in FAMILIES.values()}


@pytest.mark.parametrize(("name", "options"), [case for case in EACH_KIND if case.values[0] in PLAIN])
def test_every_plain_network_has_its_twin(name: str, options: dict[str, Any]) -> None:
    plain_keys, attended_keys = (_meta(n, **options).state_dict().keys() for n in (name, f"se_{name}"))
    assert plain_keys < attended_keys
    assert all(".se." in key for key in attended_keys - plain_keys)


def test_every_attended_network_has_its_plain_twin() -> None:
    attended = set(NAMES) - set(PLAIN)
    assert {name.removeprefix("se_") for name in attended} - set(NAMES) == set()
    assert attended - {f"se_{name}" for name in NAMES} == {"senet154"}
    for name in PLAIN:
        assert MODELS[f"se_{name}"].differences(MODELS[name]) == {"attention": senet.SE().to_dict()}


@pytest.mark.parametrize(
    # Of the Inceptions, the oldest one by default.
    ("name", "options"),
    _cases(set(FAMILIES.values()) - {"se_inception_v3", "se_inception_resnet_v2"}, limit=sys.maxsize),
)
def test_output_stride(name: str, options: dict[str, Any]) -> None:
    spec = MODELS[name].changed(options)
    coarsest = spec.feature_info[-1].stride
    keys = {key: tensor.shape for key, tensor in _meta(name, **options).state_dict().items()}
    before = Backbone(_meta(name, **options))(_image(spec, side=256))
    for limit in OUTPUT_STRIDES[:2]:
        if limit > coarsest:
            with pytest.raises(senet.SenetError, match=f"output_stride={limit}"):
                spec.changed({"output_stride": limit})
            continue
        backbone = senet.create_model(name, device="meta", features_only=True, output_stride=limit, **options).eval()
        assert {key: tensor.shape for key, tensor in backbone.state_dict().items()} == {
            key: shape for key, shape in keys.items() if not key.startswith("head.")
        }
        assert backbone.strides == tuple(min(info.stride, limit) for info in spec.feature_info)
        for found, old, info, was in zip(
            backbone(_image(spec, side=256)), before, backbone.feature_info, spec.feature_info, strict=True
        ):
            assert found.shape[:2] == old.shape[:2]
            if spec.preprocessing.size[0] == 299:
                assert abs(found.shape[2] - old.shape[2] * was.stride // info.stride) <= 2 * was.stride // info.stride
            else:
                assert found.shape[2:] == (256 // info.stride,) * 2


# What computes.


@pytest.fixture(scope="module", params=[pytest.param(c.values, id=c.id, marks=c.marks) for c in _cases(ATTENDED)])
def network(request: pytest.FixtureRequest) -> ConvNet:
    """A network whose weights and statistics all count."""
    name, options = request.param
    model = senet.create_model(name, device="meta", **options)
    return randomise(model, pictures(4, (_side(model.spec),) * 2))


def _pictures(model: ConvNet) -> Tensor:
    return pictures(4, (_side(model.spec),) * 2)


def _gradients(model: ConvNet) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    model.zero_grad()
    output = model.train()(_pictures(model))
    assert output.shape == (4, model.spec.num_classes)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_every_parameter_learns_and_checkpointing_changes_nothing(network: ConvNet) -> None:
    kept = _gradients(network)
    for name, gradient in kept.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
    counts = {k: int(v) for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    network.grad_checkpointing = True
    try:
        again = _gradients(network)
    finally:
        network.grad_checkpointing = False
    assert all(torch.equal(gradient, again[name]) for name, gradient in kept.items())
    assert {k: int(v) - 1 for k, v in network.state_dict().items() if k in counts} == counts
    network.zero_grad()


@torch.no_grad()
def test_channels_last_equals_contiguous(network: ConvNet) -> None:
    images = _pictures(network)
    want = network.eval()(images)
    try:
        got = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    finally:
        network.to(memory_format=torch.contiguous_format)
    assert (got - want).abs().max() < 1e-4 * want.abs().max()


@torch.no_grad()
def test_bfloat16_is_finite(network: ConvNet) -> None:
    images = _pictures(network)
    with torch.autocast("cpu", torch.bfloat16):
        got = network.eval()(images)
    assert got.isfinite().all()


@torch.no_grad()
def test_maps_are_those_of_the_network(network: ConvNet) -> None:
    """Also that no later stage writes into an earlier stage's map."""
    images = _pictures(network)
    network.eval()
    during: list[Tensor] = []
    handles = [
        stage[-1].register_forward_hook(lambda _, args, out: during.append(out.clone()))
        for stage in network.stages.values()
        if isinstance(stage, nn.Sequential)
    ]
    last = network.forward_features(images)
    for handle in handles:
        handle.remove()
    maps = Backbone(network)(images)
    assert torch.equal(maps[-1], last)
    assert all(torch.equal(a, b) for a, b in zip(maps[:-1], during[:-1], strict=True))


@torch.no_grad()
@pytest.mark.parametrize(
    # The others' own tests export a small one.
    "name",
    [n if n == "se_cifar_resnet20" else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES.values()],
)
def test_export_equals_eager(name: str) -> None:
    model = senet.create_model(name, device="meta")
    images = _pictures(model)
    randomise(model, images)
    dims = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=dims).module()
    for count in (1, 3):
        want = model(images[:count])
        assert (program(images[:count]) - want).abs().max() <= 1e-5 * want.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), [case for case in _cases(TWINS) if case.values[0] in PLAIN])
def test_a_dilated_map_is_the_map_and_what_lies_between(name: str, options: dict[str, Any]) -> None:
    """Without attention (its mean would be over other pixels): every s-th pixel is what it was.

    The sides divide by 32: a pool without padding drops an odd last row, which a dilated network still sees.
    """
    spec = MODELS[name].changed(options)
    side = -(-_side(spec) // 32) * 32 + 32
    model = randomise(senet.create_model(name, device="meta", **options).double(), pictures(2, (side, side)).double())
    images = pictures(2, (side, side - 32)).double()
    old = model.forward_features(images)
    coarsest = spec.feature_info[-1].stride
    for limit in (n for n in OUTPUT_STRIDES if n < coarsest):
        dense = senet.create_model(name, device="meta", output_stride=limit, **options).double().eval()
        dense.load_state_dict(model.state_dict(), assign=True)
        step = coarsest // limit
        new = dense.forward_features(images)[:, :, ::step, ::step][:, :, : old.shape[2], : old.shape[3]]
        assert new.shape == old.shape
        assert (new - old).abs().max() < 1e-9 * old.abs().max()
