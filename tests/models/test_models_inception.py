"""BN-Inception, Inception-v3, Inception-ResNet-v2: published counts, blocks by hand, image sizes, options."""

from __future__ import annotations

import copy
import pickle
from functools import cache
from typing import Any

import pytest
import torch
from peers import pictures, randomise
from torch import Tensor, nn

import senet
from senet.models import MODELS, ConvNet
from senet.models.bn_inception import CutPool
from senet.models.inception import InceptionBlock
from senet.models.inception_resnet_v2 import ScaledResidualBlock
from senet.nn import Attention
from senet.preprocessing import IMAGENET_CAFFE
from senet.profiling import Cost, cost

SMALL: dict[str, dict[str, Any]] = {
    "se_bn_inception": {},
    "se_inception_v3": {},
    "se_inception_resnet_v2": {"depths": (2, 1, 2)},
}
"""The networks, as small as they can be made."""


@cache
def _cost(name: str) -> Cost:
    model = senet.create_model(name, device="meta")
    return cost(model, (3, *model.spec.preprocessing.size))


# The authors' definition; torchvision (its 5.713 G) and timm at 299 pixels.
@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("bn_inception", 11_285_224, 2_032_600_064),
        ("se_bn_inception", 11_931_622, 2_033_239_424),
        ("inception_v3", 23_834_568, 5_713_216_096),
        ("inception_resnet_v2", 55_843_464, 13_155_794_016),
    ],
)
def test_published_counts(name: str, params: int, macs: int) -> None:
    found = _cost(name)
    assert (found.params, found.macs) == (params, macs)


def test_the_papers_rounding() -> None:
    assert round(_cost("bn_inception").macs / 1e9, 2) == 2.03
    # Table 2 prints 11.75 for the plain network; it isn't this one's count.
    assert round(_cost("inception_resnet_v2").macs / 1e9, 2) == 13.16


WIDTHS = {
    "bn_inception": (256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024),
    "inception_v3": (256, 288, 288, *[768] * 5, 1280, 2048, 2048),
    "inception_resnet_v2": (*[320] * 11, *[1088] * 21, *[2080] * 11),
}


@pytest.mark.parametrize("name", WIDTHS)
def test_what_the_attention_adds(name: str) -> None:
    """A block of reduction 16 after each concatenation, or on each residual branch, and nowhere else."""
    model = senet.create_model(f"se_{name}", device="meta")
    blocks = [block for block in model.modules() if isinstance(block, Attention)]
    assert tuple(block.channels for block in blocks) == WIDTHS[name]
    plain, attended = _cost(name), _cost(f"se_{name}")
    matrices = sum(2 * c * (c // 16) for c in WIDTHS[name])
    assert attended.macs - plain.macs == attended.attention_macs == matrices
    assert attended.params - plain.params == matrices + sum(c + c // 16 for c in WIDTHS[name])


def test_preprocessing() -> None:
    assert MODELS["se_bn_inception"].preprocessing == IMAGENET_CAFFE
    v3, resnet = MODELS["inception_v3"].preprocessing, MODELS["inception_resnet_v2"].preprocessing
    assert v3.size == resnet.size == (299, 299)
    assert [p.covered_size for p in (v3, resnet)] == [(341, 341), (352, 352)]


def _network(name: str, **options: Any) -> ConvNet:
    model = senet.create_model(name, device="meta", num_classes=5, **SMALL[name], **options)
    return randomise(model, pictures(2, (107, 107), channels=model.spec.in_channels))


def _loss(model: ConvNet, images: Tensor) -> Tensor:
    torch.manual_seed(3)
    return (model.train()(images) * torch.linspace(-1, 1, 5)).sum(1).square().mean()


def _by_hand(se: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(se.fc1(x.mean((2, 3))))
    return torch.sigmoid(se.fc2(hidden))[:, :, None, None] * x


@torch.no_grad()
def test_units_by_hand() -> None:
    model = _network("se_inception_resnet_v2")
    entry, unit = model.stages["3"][0], model.stages["3"][1]
    assert isinstance(entry, InceptionBlock)
    assert isinstance(unit, ScaledResidualBlock)
    x = pictures(2, (9, 8), channels=192)
    whole = torch.cat([branch(x) for branch in entry.branches.values()], 1)
    torch.testing.assert_close(entry(x), _by_hand(entry.se, whole))
    x = pictures(2, (9, 8), channels=320)
    branch = unit.project(torch.cat([branch(x) for branch in unit.branches.values()], 1))
    torch.testing.assert_close(unit(x), torch.relu(x + 0.17 * _by_hand(unit.se, branch)))
    *_, last, head = model.stages["5"]
    assert (last.scale, last.activate) == (1.0, False)
    assert isinstance(head, nn.Sequential)
    scales = {
        n: {unit.scale for unit in stage if isinstance(unit, ScaledResidualBlock)} for n, stage in model.stages.items()
    }
    assert scales == {"3": {0.17}, "4": {0.1}, "5": {0.2, 1.0}}


@pytest.mark.parametrize("size", [(2, 2), (28, 14), (16, 6)])
def test_a_cut_pool_of_even_maps_is_the_authors(size: tuple[int, int]) -> None:
    x = pictures(2, size, channels=4) - 5
    assert torch.equal(CutPool()(x), nn.functional.max_pool2d(x, 3, 2, ceil_mode=True))


@pytest.mark.parametrize("size", [(1, 1), (7, 2), (9, 5)])
def test_a_cut_pool_of_odd_maps_has_the_convolutions_size(size: tuple[int, int]) -> None:
    x = pictures(2, size, channels=4) - 5
    got = CutPool()(x)
    assert got.shape == nn.functional.conv2d(x, torch.ones(1, 4, 3, 3), stride=2, padding=1).expand_as(got).shape
    assert torch.equal(got[:, :, -1, -1], x[:, :, 2 * got.shape[2] - 2 :, 2 * got.shape[3] - 2 :].amax((2, 3)))
    inside = got[:, :, : max(0, size[0] - 1) // 2, : max(0, size[1] - 1) // 2]
    assert torch.equal(inside, nn.functional.max_pool2d(x, 3, 2)) if min(size) > 2 else inside.numel() == 0


@pytest.mark.parametrize(
    ("name", "sizes"),
    {
        "se_bn_inception": [(7, 7), (9, 33), (47, 64), (75, 90), (225, 97)],
        "se_inception_v3": [(75, 75), (107, 92)],
        "se_inception_resnet_v2": [(75, 75), (92, 107)],
    }.items(),
)
@torch.no_grad()
def test_any_size_that_leaves_a_map(name: str, sizes: list[tuple[int, int]]) -> None:
    model = _network(name)
    for size in sizes:
        images = pictures(2, size)
        assert model(images).isfinite().all()
        last = model.forward_features(images)
        assert last.shape[1] == model.num_features
    assert model.forward_features(pictures(1, sizes[0])).shape[2:] == (1, 1)


@pytest.mark.parametrize("chosen", [(3,), (4, 5), ()])
def test_stages_choose(chosen: tuple[int, ...]) -> None:
    for name, options in SMALL.items():
        model = senet.create_model(name, device="meta", stages=chosen, **options)
        for number, stage in model.stages.items():
            units = [unit for unit in stage if isinstance(unit, InceptionBlock | ScaledResidualBlock)]
            assert units
            assert {isinstance(unit.se, Attention) for unit in units} == {int(number) in chosen}


def test_stages_end_where_the_map_is_halved() -> None:
    for name, options in SMALL.items():
        model = senet.create_model(name, device="meta", **options).eval()
        assert [info.stride for info in model.feature_info] == [2**info.stage for info in model.feature_info]
        x = model.stem(torch.empty(1, 3, 299, 299, device="meta"))
        for stage in model.stages.values():
            first, *others = stage
            x = first(x)
            size = x.shape[2:]
            for unit in others:
                x = unit(x)
                assert x.shape[2:] == size


def test_checkpointing_is_bit_for_bit() -> None:
    kept = _network("se_inception_resnet_v2")
    recomputed = copy.deepcopy(kept)
    recomputed.grad_checkpointing = True
    images = pictures(2, (107, 107))
    for model in (kept, recomputed):
        _loss(model, images).backward()
    for (name, first), (_, second) in zip(kept.named_parameters(), recomputed.named_parameters(), strict=True):
        assert first.grad.abs().max() > 0, name
        assert torch.equal(first.grad, second.grad), name
    for (name, first), (_, second) in zip(kept.named_buffers(), recomputed.named_buffers(), strict=True):
        assert torch.equal(first, second), name


@pytest.mark.parametrize("name", ["se_bn_inception", pytest.param("se_inception_resnet_v2", marks=pytest.mark.slow)])
@torch.no_grad()
def test_export_with_any_batch(name: str) -> None:
    model = _network(name)
    images = pictures(3, (75, 81))
    dims = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (images[:2],), dynamic_shapes=dims).module()
    for count in (1, 3):
        torch.testing.assert_close(program(images[:count]), model(images[:count]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_copies_channels_and_classes(name: str) -> None:
    model = _network(name, in_channels=1)
    images = pictures(2, (75, 75), channels=1)
    want = model(images)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), want)
    features = model.forward_features(images).mean((2, 3))
    dropout = model.head.dropout.p
    model.reset_classifier(0)
    assert torch.equal(model(images), features)
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    assert model.head.dropout.p == dropout == (0.0 if name == "se_bn_inception" else 0.2)


def test_the_projection_starts_like_the_other_convolutions() -> None:
    """It has a bias, so that the network's own initialisation leaves it alone."""
    project = senet.create_model("inception_resnet_v2", depths=(1, 1, 1)).stages["4"][1].project
    assert project.weight.std().item() == pytest.approx((2 / 1088) ** 0.5, rel=0.02)
    assert not project.bias.any()


IMPOSSIBLE: list[tuple[str, dict[str, Any], str]] = [
    ("bn_inception", {"placement": "pre"}, "placement='pre'"),
    ("se_inception_v3", {"placement": "conv3x3"}, "placement='conv3x3'"),
    ("se_inception_resnet_v2", {"placement": "post"}, "placement='post'"),
    ("se_bn_inception", {"stages": (2,)}, "no stage 2; the stages are numbered 3 to 5"),
    ("se_inception_v3", {"stages": (6,)}, "no stage 6"),
    ("se_bn_inception", {"attention": senet.SE(reduction=257)}, "reduction=257 leaves no hidden unit for channels=256"),
    ("inception_v3", {"dropout": 1.0}, "dropout=1.0"),
    ("inception_v3", {"dropout": -0.1}, "dropout=-0.1"),
    ("inception_v3", {"depths": (1, 1, 1)}, "unknown option of inception_v3 'depths'"),
    ("inception_resnet_v2", {"depths": (1, 1)}, "depths"),
    ("inception_resnet_v2", {"depths": (1, 0, 1)}, "depths"),
    ("inception_resnet_v2", {"depths": ()}, "depths"),
    ("inception_resnet_v2", {"depths": (1, 1, "2")}, "depths"),
    ("bn_inception", {"in_channels": 0}, "in_channels=0"),
    ("bn_inception", {"num_classes": -1}, "num_classes=-1"),
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
