"""Networks as backbones: maps, weights of a classifier, dilation as torchvision's, freezing, export."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torchvision
from peers import TORCHVISION, adopt, deviation, pictures, randomise
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import senet
from senet.models import Backbone, ConvNet
from senet.models.dilation import DensePool
from senet.nn import SE

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "residual": ("se_resnet18", {"depths": (1, 1, 1), "num_classes": 5}),
    "preact": ("se_cifar_preresnet20", {"depth": 1}),
    "vgg": ("se_vgg11", {"depths": (1, 1, 1), "num_classes": 5, "hidden": 8}),
    "densenet": ("se_densenet121", {"depths": (2, 2, 2), "num_classes": 5}),
}
IMAGES = pictures(4, (48, 64))


def _network(kind: str) -> ConvNet:
    name, options = NETWORKS[kind]
    return randomise(senet.create_model(name, device="meta", **options), IMAGES)


def _backbone(kind: str, out_stages: tuple[int, ...] | None = None) -> Backbone:
    name, options = NETWORKS[kind]
    options = {k: v for k, v in options.items() if k != "num_classes"}
    return senet.create_model(name, features_only=True, out_stages=out_stages, **options)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_classifiers_weights_load(kind: str) -> None:
    network = _network(kind)
    numbers = [info.stage for info in network.feature_info]
    whole = Backbone(network)(IMAGES)
    for out_stages in (None, (numbers[0],), tuple(numbers[:2]), (numbers[0], numbers[-1])):
        backbone = _backbone(kind, out_stages).eval()
        state = network.state_dict()
        assert backbone.load_state_dict(state).unexpected_keys == []
        assert any(key.startswith("head.") for key in state), "the caller's dictionary stays whole"
        assert set(backbone.state_dict()) <= set(state)
        maps = backbone(IMAGES)
        chosen = out_stages or numbers
        for found, number in zip(maps, chosen, strict=True):
            assert torch.equal(found, whole[numbers.index(number)])
        assert [m.shape[1] for m in maps] == [*backbone.channels]
        assert [(48 // s, 64 // s) for s in backbone.strides] == [m.shape[2:] for m in maps]
        assert [info.stage for info in backbone.feature_info] == [*chosen]


def test_what_is_missing_or_strange_is_an_error() -> None:
    state = _network("residual").state_dict()
    backbone = _backbone("residual", (2, 3))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*hed\.fc\.weight"):
        backbone.load_state_dict(state | {"hed.fc.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*stages\.9"):
        backbone.load_state_dict(state | {"stages.9.0.branch.conv1.weight": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*stages\.3"):
        backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith("stages.3.0.branch.conv1")})


def test_inside_another_module() -> None:
    state = _network("residual").state_dict()
    detector = nn.ModuleDict({"body": _backbone("residual", (2,)), "neck": nn.Conv2d(64, 8, 1)})
    whole = {f"body.{k}": v for k, v in state.items()} | {
        f"neck.{k}": v for k, v in detector["neck"].state_dict().items()
    }
    for module in (detector, copy.deepcopy(detector)):
        module.load_state_dict(whole)
        assert torch.equal(module["body"].stem[0][0].weight, state["stem.0.0.weight"])


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("first_only", [False, True])
def test_every_parameter_takes_part(kind: str, first_only: bool) -> None:
    number = _network(kind).feature_info[0].stage
    backbone = _backbone(kind, (number,) if first_only else None)
    sum(m.square().mean() for m in backbone(IMAGES)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())


def test_the_last_norm_is_the_last_maps_alone() -> None:
    network = _network("preact")
    sums = Backbone(network, (2, 3))(IMAGES)
    assert all((m < 0).any() for m in sums)
    assert (Backbone(network)(IMAGES)[-1] >= 0).all()
    assert not any(key.startswith("final.") for key in Backbone(network, (2, 3)).state_dict())


def test_maps_are_known_on_the_meta_device() -> None:
    backbone = senet.create_model("se_resnet50", features_only=True, out_stages=(3, 5), device="meta")
    assert backbone.channels == (512, 2048)
    assert backbone.strides == (8, 32)
    assert all(t.is_meta for t in backbone.state_dict().values())
    dilated = senet.create_model("se_resnet50", features_only=True, output_stride=8, device="meta")
    assert dilated.strides == (4, 8, 8, 8)


IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("resnet50", {"output_stride": 4}, "output_stride=4: resnet50 has stride 32; use 8 or 16 or 32"),
    ("resnet50", {"output_stride": 7}, "output_stride=7"),
    ("resnet50", {"output_stride": 64}, "output_stride=64"),
    ("resnet50", {"output_stride": "8"}, "output_stride='8'"),
    ("vgg16", {"output_stride": 32}, "output_stride=32: vgg16 has stride 16; use 8 or 16"),
    ("cifar_resnet20", {"output_stride": 8}, "output_stride=8: cifar_resnet20 has stride 4; use None"),
    ("resnet50", {"features_only": True, "out_stages": (1,)}, "out_stages=(1,)"),
    ("resnet50", {"features_only": True, "out_stages": (2, 6)}, "resnet50's stages (2, 3, 4, 5)"),
    ("resnet50", {"features_only": True, "out_stages": (3, 2)}, "ascending"),
    ("resnet50", {"features_only": True, "out_stages": (3, 3)}, "ascending"),
    ("resnet50", {"features_only": True, "out_stages": ()}, "out_stages=()"),
    ("resnet50", {"features_only": True, "num_classes": 5}, "leave out num_classes"),
    ("resnet50", {"out_stages": (2,)}, "needs features_only=True"),
]


@pytest.mark.parametrize(("name", "options", "message"), IMPOSSIBLE, ids=lambda v: str(v).replace(" ", ""))
def test_an_impossible_wish_is_told_before_anything_is_made(
    name: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a convolution was made")

    monkeypatch.setattr(nn.Conv2d, "__init__", forbidden)
    with pytest.raises(senet.SenetError) as told:
        senet.create_model(name, **options)
    assert message in str(told.value)
    assert "\n" not in str(told.value)


# Dilation.


@pytest.mark.parametrize(("limit", "replaced"), [(8, [False, True, True]), (16, [False, False, True])])
def test_dilation_is_torchvisions(limit: int, replaced: list[bool]) -> None:
    images = pictures(2, (65, 96))
    peer = randomise(torchvision.models.resnet50(replace_stride_with_dilation=replaced), images)
    ours = adopt(senet.create_model("resnet50_v1_5", output_stride=limit, device="meta"), peer, TORCHVISION)
    assert deviation(ours, peer, images) < 1e-5
    theirs = [m for m in peer.modules() if isinstance(m, nn.Conv2d)]
    convs = [m for m in ours.modules() if isinstance(m, nn.Conv2d)]
    shapes = [[(c.weight.shape, c.stride, c.padding, c.dilation) for c in group] for group in (convs, theirs)]
    assert sorted(shapes[0]) == sorted(shapes[1])


def test_where_the_first_unit_is_dilated() -> None:
    """Whatever follows the convolution that lost its stride."""
    authors = senet.create_model("resnet50", output_stride=16, device="meta").stages["5"]
    later = senet.create_model("resnet50_v1_5", output_stride=16, device="meta").stages["5"]
    basic = senet.create_model("resnet18", output_stride=16, device="meta").stages["5"]
    assert [unit.branch.conv2.dilation[0] for unit in authors] == [2, 2, 2]
    assert [unit.branch.conv2.dilation[0] for unit in later] == [1, 2, 2]
    assert [(u.branch.conv1.dilation[0], u.branch.conv2.dilation[0]) for u in basic] == [(1, 2), (2, 2)]
    assert senet.create_model("resnet50", output_stride=32, device="meta").stages["5"][0].branch.conv1.stride == (2, 2)


SMALL_STAGES = {"depth": 2, "widths": (4, 8, 8, 8, 16), "attention": None}


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "limit"),
    [
        ((57, 75), 8),
        ((64, 48), 16),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (((64, 48), 8), ((57, 75), 16))),
    ],
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar_resnet20", SMALL_STAGES),
        ("cifar_preresnet20", SMALL_STAGES),
        ("shake_even29_2x4x64d", SMALL_STAGES),
        ("shake_shake26_2x96d", SMALL_STAGES),
        ("senet154", {"depths": (1, 1, 2, 2), "groups": 2, "attention": None}),
    ],
)
def test_shortcuts_of_all_kinds_are_dilated(
    name: str, options: dict[str, Any], size: tuple[int, int], limit: int
) -> None:
    """At every s-th pixel the dilated map is the map: all layers see the same pixels as before."""
    images = pictures(2, size).double()
    model = randomise(senet.create_model(name, device="meta", **options).double(), images)
    coarsest = model.feature_info[-1].stride
    dense = senet.create_model(name, device="meta", output_stride=limit, **options).double().eval()
    dense.load_state_dict(model.state_dict(), assign=True)
    step = coarsest // min(limit, coarsest)
    old = model.forward_features(images)
    new = dense.forward_features(images)[:, :, ::step, ::step][:, :, : old.shape[2], : old.shape[3]]
    torch.testing.assert_close(new, old, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(12, 9), (7, 8)])
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 1, padding=1),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, padding=1),
        nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
        nn.AvgPool2d(3, 1, padding=1),
        nn.AvgPool2d(3, 1, padding=1, count_include_pad=False),
    ],
    ids=str,
)
def test_a_dense_pool_is_the_pool_and_what_lies_between(pool: nn.Module, dilation: int, size: tuple[int, int]) -> None:
    coarse = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    between = torch.randn(2, 3, *(n * dilation for n in size), dtype=torch.float64)
    between[:, :, ::dilation, ::dilation] = coarse
    step = pool.stride * dilation
    want = pool(coarse)
    got = DensePool(pool, dilation)(between)
    if pool.stride == 1 or pool.padding or pool.ceil_mode or pool.kernel_size == pool.stride:
        assert got.shape == between.shape
    torch.testing.assert_close(got[:, :, ::step, ::step][:, :, : want.shape[2], : want.shape[3]], want)


def test_attention_stays_as_it_is() -> None:
    names = ("gather", "mixed")
    for attention in (senet.GE(), senet.CBAM()):
        plain, dilated = (
            senet.create_model("resnet18", attention=attention, output_stride=o, device="meta") for o in (None, 8)
        )
        for unit, other in zip(plain.stages["5"], dilated.stages["5"], strict=True):
            assert str(unit.se) == str(other.se), names


def test_the_description_knows_it() -> None:
    spec = senet.create_model("resnet50", output_stride=8, device="meta").spec
    assert spec.differences(senet.models.MODELS["resnet50"]) == {"output_stride": 8}


def test_the_same_seed_gives_the_same_weights() -> None:
    options = {"depth": 1, "widths": (4, 8, 8, 8, 16)}
    states = []
    for limit in (None, 8):
        torch.manual_seed(0)
        states.append(
            senet.create_model("se_cifar_resnet20", output_stride=limit, attention=SE(4), **options).state_dict()
        )
    assert all(torch.equal(a, states[1][k]) for k, a in states[0].items())


# What one does with modules.


def _equal(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(first, second, strict=True):
        assert (a - b).abs().max() <= tolerance * a.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("kind", NETWORKS)
def test_copies_and_channels_last(kind: str) -> None:
    backbone = Backbone(_network(kind))
    want = backbone(IMAGES)
    _equal(want, copy.deepcopy(backbone)(IMAGES), 0)
    _equal(want, pickle.loads(pickle.dumps(backbone))(IMAGES), 0)
    _equal(want, backbone.to(memory_format=torch.channels_last)(IMAGES.to(memory_format=torch.channels_last)), 1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("residual", {}),
        ("residual", {"output_stride": 8}),
        *(pytest.param("densenet", options, marks=pytest.mark.slow) for options in ({}, {"output_stride": 8})),
    ],
    ids=str,
)
def test_export_with_any_batch_and_size(kind: str, options: dict[str, Any]) -> None:
    name, own = NETWORKS[kind]
    backbone = Backbone(randomise(senet.create_model(name, device="meta", **own, **options), IMAGES))
    dims = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(backbone, (IMAGES,), dynamic_shapes=(dims,)).module()
    for images in (IMAGES, pictures(2, (64, 96)), pictures(3, (80, 80))):
        _equal(backbone(images), program(images))


@torch.no_grad()
def test_compile() -> None:
    backbone = Backbone(_network("residual"))
    _equal(backbone(IMAGES), torch.compile(backbone, backend="aot_eager", fullgraph=True)(IMAGES))


@pytest.mark.parametrize("kind", ["residual", "preact"])
def test_checkpointing_changes_nothing(kind: str) -> None:
    kept = Backbone(_network(kind)).train()
    again = copy.deepcopy(kept)
    again.grad_checkpointing = True
    for backbone in (kept, again):
        sum(m.square().mean() for m in backbone(IMAGES)).backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(kept.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept.buffers(), again.buffers(), strict=True))


# Freezing.


def _norms(module: nn.Module) -> list[_BatchNorm]:
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def test_freezing_the_first_stages() -> None:
    backbone = Backbone(_network("residual")).train().freeze(2)
    still = {k: v.clone() for k, v in backbone.state_dict().items()}
    sum(m.square().mean() for m in backbone(IMAGES)).backward()
    fixed = ("stem.", "stages.2.")
    for name, parameter in backbone.named_parameters():
        assert (parameter.grad is None) == name.startswith(fixed), name
    for key, value in backbone.state_dict().items():
        if key.endswith("running_mean"):
            assert torch.equal(value, still[key]) == key.startswith(fixed), key
    backbone.eval().train()
    assert not any(norm.training for norm in _norms(backbone.stem))
    assert all(norm.training for norm in _norms(backbone.stages["3"]))


def test_freezing_norms_and_thawing() -> None:
    backbone = Backbone(_network("residual")).train().freeze(norms=True)
    assert not any(norm.training or norm.weight.requires_grad for norm in _norms(backbone))
    assert backbone.stem[0][0].weight.requires_grad
    backbone.freeze()
    assert all(norm.training for norm in _norms(backbone))
    assert all(p.requires_grad for p in backbone.parameters())
    with pytest.raises(senet.SenetError, match="last=7"):
        backbone.freeze(7)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["residual", "preact"])
def test_modes_stay_as_the_network_has_them(kind: str, training: bool) -> None:
    network = _network(kind).train(training)
    for module in (network.stem, network.stages["2"][0], network.final):
        module.training = not training
    before = {name: module.training for name, module in network.named_modules()}
    backbone = Backbone(network)
    assert backbone.training == training
    assert all(module.training == before[name] for name, module in backbone.named_modules())
    assert {name: module.training for name, module in network.named_modules()} == before
    shortened = Backbone(network, out_stages=(2,))
    assert all(module.training == before[name] for name, module in shortened.named_modules() if name != "final")


def test_freezing_touches_only_what_it_freezes() -> None:
    backbone = Backbone(_network("residual")).train()
    own = _norms(backbone.stages["3"])[0].eval().requires_grad_(False)
    backbone.freeze(2)
    backbone.freeze(1)
    assert not own.training
    assert not own.weight.requires_grad
    assert all(norm.training for norm in _norms(backbone.stages["2"]))
    assert all(p.requires_grad for p in backbone.stages["2"].parameters())
    assert not any(p.requires_grad for p in backbone.stem.parameters())


def test_a_new_classifier_has_the_mode_of_the_old_one() -> None:
    network = _network("residual").train()
    network.head.eval()
    network.reset_classifier(7)
    assert not any(module.training for module in network.head.modules())
