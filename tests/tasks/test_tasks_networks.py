"""Every family as a backbone with a pyramid on it; detectors and segmenters, beside torchvision's and smp's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import senet
from senet.errors import SenetError
from senet.models import MODELS
from senet.nn import Attention
from senet.preprocessing import IMAGENET, Preprocessing
from senet.tasks import task_named
from senet.tasks.head import head_from_dict, parse_head
from senet.tasks.pyramid import PyramidBackbone, distinct_maps
from senet.weights import load_weights
from senet.zoo import model_spec

FAMILIES: dict[str, dict[str, Any]] = {
    "se_resnet18": {"depths": (1, 1, 1, 1), "group_width": 16},
    "se_cifar_resnet20": {"depth": 1},
    "se_cifar_preresnet20": {"depth": 1},
    "se_shake_shake26_2x96d": {"depth": 1, "attention": senet.SE()},
    "se_vgg11": {"depths": (1, 1, 1, 1, 1)},
    "se_densenet121": {"depths": (2, 2, 2, 2)},
    "se_bn_inception": {},
    "se_inception_v3": {},
    "se_inception_resnet_v2": {"depths": (1, 1, 1)},
    "se_mobilenet_v1_025": {},
    "se_shufflenet_v1_g3": {},
}
"""One small network of each family."""


def fitting(name: str) -> dict[str, Any]:
    """Those of the options that the family has."""
    spec = model_spec(name)
    return {key: value for key, value in FAMILIES[name].items() if hasattr(spec, key)}


def randomised(model: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(0, 0.2, generator=draw)
            module.running_var.uniform_(0.5, 1.5, generator=draw)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=draw)
            nn.init.uniform_(module.bias, -0.3, 0.3, generator=draw)
    return model


def test_every_family_is_here() -> None:
    assert {type(MODELS[name]) for name in FAMILIES} == {type(spec) for spec in MODELS.values()}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pyramid_on_every_family(name: str) -> None:
    """Maps as `feature_info` promises; gradients everywhere but in what is frozen; a classifier's weights fit."""
    torch.manual_seed(0)
    network = senet.create_model(name, num_classes=5, **fitting(name))
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    maps = distinct_maps(network)
    pyramid = PyramidBackbone(network, maps, 16)
    height, width = (107, 139) if "inception" in name else (51, 70)  # those without padding need more
    image = torch.randn(2, 3, height, width)
    bare = pyramid.body(image)
    assert [m.shape[1] for m in bare] == [info.channels for info in maps]
    strides = [info.stride for info in maps]
    assert strides == sorted(set(strides))
    levels = list(pyramid(image).values())
    assert [level.shape for level in levels] == [(2, 16, *m.shape[2:]) for m in bare]
    for level, stride in zip(levels, strides, strict=True):
        # Families without padding (Inception) lose a few pixels at the border, others round up.
        assert abs(level.shape[2] - height / stride) <= 3
    pyramid.body.freeze(2 if any(info.stage == 2 for info in maps) else 1, norms=True)
    before = {key: buffer.clone() for key, buffer in pyramid.body.named_buffers()}
    sum(level.square().mean() for level in pyramid.train()(image).values()).backward()
    for key, parameter in pyramid.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    frozen = list(pyramid.body.stem.parameters())
    assert not any(parameter.requires_grad for parameter in frozen)
    assert any(parameter.requires_grad for parameter in pyramid.body.parameters())
    assert all(torch.equal(buffer, before[key]) for key, buffer in pyramid.body.named_buffers())
    with torch.no_grad():
        for parameter in pyramid.body.parameters():
            parameter.zero_()
    pyramid.body.load_state_dict(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in pyramid.body.state_dict().items())


HEADS = [(task, kind) for task in ("detection", "segmentation") for kind in task_named(task).heads]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("task", "kind"), HEADS)
@pytest.mark.parametrize(
    "name", [n if n == "se_resnet18" else pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES]
)
def test_every_head_stands_on_every_family(task: str, kind: str, name: str) -> None:
    with torch.device("meta"):
        model = task_named(task).build(name, num_classes=3, preprocessing=IMAGENET, options=fitting(name),
                                       head={"kind": kind, "channels": 32})  # fmt: skip
    image = torch.empty(2, 3, 107, 139, device="meta")
    if task == "segmentation":
        assert model(image).shape == (2, 3, 107, 139)
    else:
        assert all(level.shape[:2] == (2, 32) for level in model.backbone(image).values())


@pytest.mark.parametrize(("task", "kind"), HEADS)
def test_every_parameter_learns_and_attention_in_the_head(task: str, kind: str) -> None:
    torch.manual_seed(0)
    plain, attended = (
        task_named(task).build(
            "se_resnet18",
            num_classes=2,
            preprocessing=Preprocessing(size=(64, 96)),
            options=fitting("se_resnet18"),
            head={"kind": kind, "channels": 32, "attention": attention},
        )
        for attention in (None, {"kind": "scse"})
    )
    count = [sum(isinstance(module, Attention) for module in model.modules()) for model in (plain, attended)]
    assert count[1] > count[0] > 0
    if task == "segmentation":
        attended(torch.randn(2, 3, 64, 96)).square().mean().backward()
    else:
        images = [torch.rand(3, 64, 96), torch.rand(3, 50, 70)]
        targets = [
            {"boxes": torch.tensor([[4.0, 4, 40, 50], [30, 20, 60, 60]]), "labels": torch.tensor([1, 2])},
            {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        ]
        sum(attended(images, targets).values()).backward()
    assert [key for key, p in attended.named_parameters() if p.grad is None] == []


# Beside torchvision's own.


def _ours(kind: str, theirs: nn.Module) -> nn.Module:
    """Our detector with all weights of torchvision's."""
    model = task_named("detection").build("resnet50_v1_5", num_classes=2, preprocessing=Preprocessing(size=(96, 160)),
                                          options={}, head={"kind": kind})  # fmt: skip
    state = theirs.state_dict()
    network = senet.create_model("resnet50_v1_5")
    body = {key.removeprefix("backbone.body."): t for key, t in state.items() if key.startswith("backbone.body.")}
    load_weights(network, body | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)})
    model.backbone.body.load_state_dict(network.state_dict())  # type: ignore[union-attr, operator]
    rest = {key: t for key, t in state.items() if not key.startswith("backbone.body.")}
    missing, extra = model.load_state_dict(rest, strict=False)
    assert not extra
    assert all(key.startswith("backbone.body.") for key in missing)
    return model


@pytest.mark.parametrize(
    ("kind", "maker"),
    [
        ("faster_rcnn", torchvision.models.detection.fasterrcnn_resnet50_fpn),
        pytest.param("fcos", torchvision.models.detection.fcos_resnet50_fpn, marks=pytest.mark.slow),
    ],
)
def test_equal_to_torchvision(kind: str, maker: Any) -> None:
    torch.manual_seed(1)
    theirs = randomised(maker(weights=None, weights_backbone=None, num_classes=3, min_size=96, max_size=160))
    theirs.score_thresh = 0.0
    ours = _ours(kind, theirs)
    ours.score_thresh = 0.0
    for model in (theirs, ours):
        if kind == "faster_rcnn":
            model.roi_heads.score_thresh = 0.0  # type: ignore[union-attr]
            for number in (model.rpn._pre_nms_top_n, model.rpn._post_nms_top_n):  # type: ignore[union-attr]
                number.update(training=40, testing=400)  # type: ignore[union-attr, operator]
    images = [torch.rand(3, 90, 120), torch.rand(3, 70, 140)]
    targets = [{"boxes": torch.tensor([[4.0, 4, 60, 70]]), "labels": torch.tensor([1])}] * 2
    with torch.no_grad():
        expected, found = theirs.double().eval()([i.double() for i in images]), ours.double().eval()(
            [i.double() for i in images])  # fmt: skip
        for one, other in zip(expected, found, strict=True):
            assert len(one["boxes"]) > 3
            assert torch.equal(one["labels"], other["labels"])
            torch.testing.assert_close(one["boxes"], other["boxes"], rtol=1e-7, atol=1e-5)
        losses = []
        for model in (theirs, ours):
            torch.manual_seed(2)  # anchors are drawn
            losses.append(model.train()([i.double() for i in images], [
                t | {"boxes": t["boxes"].double()} for t in targets]))  # fmt: skip
    for key, value in losses[0].items():
        torch.testing.assert_close(value, losses[1][key], rtol=1e-6, atol=1e-8)


def test_unet_with_scse_is_smps() -> None:
    """The decoder beside segmentation_models_pytorch's, with its weights."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    from senet.tasks.segmentation.decoders import UNetDecoder

    channels, strides, width = (32, 48, 64, 96), (2, 4, 8, 16), 64
    theirs = smp.decoders.unet.decoder.UnetDecoder([3, *channels], [64, 32, 16, 16], 4, attention_type="scse")
    ours = UNetDecoder(channels, strides, width, senet.ScSE(reduction=16))
    randomised(theirs)
    # Their last block, which has no map to join, has a first attention all the same, which never runs.
    given = {key: t for key, t in theirs.state_dict().items() if not key.startswith("blocks.3.attention1")}
    ours.load_state_dict(_paired(ours.state_dict(), given))
    maps = [torch.randn(2, c, 64 // s, 96 // s, dtype=torch.float64) for c, s in zip(channels, strides, strict=True)]
    with torch.no_grad():
        image = torch.zeros(2, 3, 64, 96, dtype=torch.float64)
        expected = theirs.double().eval()([image, *maps])
        found = ours.double().eval()(maps, (64, 96))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def _paired(own: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Block by block and layer by layer, tensors in their order."""

    def place(key: str) -> tuple[str, str]:
        _, block, layer, *_ = key.split(".")
        return block, layer

    found = {}
    for where in dict.fromkeys(map(place, own)):
        ours = [key for key in own if place(key) == where]
        theirs = [given[key] for key in given if place(key) == where]
        assert len(ours) == len(theirs), where
        for key, tensor in zip(ours, theirs, strict=True):
            found[key] = tensor.reshape(own[key].shape)
    return found


# Heads as data.


def test_heads_are_data() -> None:
    heads = task_named("detection").heads  # type: ignore[attr-defined]
    spec = parse_head("fcos:channels=64", senet.SE(8), heads)
    assert head_from_dict(spec.to_dict(), heads) == spec
    for text, message in (
        ("fcoss", "did you mean 'fcos'"),
        ("fcos:chanels=3", "did you mean 'channels'"),
        ("fcos:channels=x", "whole number"),
        ("fcos:channels", "NAME:OPTION=NUMBER"),
        ("unet", "unknown head 'unet'"),
    ):
        with pytest.raises(SenetError, match=message):
            parse_head(text, None, heads)
    with pytest.raises(SenetError, match="multiple of 32"):
        task_named("detection").build("resnet18", num_classes=2, preprocessing=IMAGENET, options={},
                                      head={"kind": "fcos", "channels": 40})  # fmt: skip


def test_other_libraries_networks() -> None:
    task = task_named("detection")
    with pytest.raises(SenetError, match="did you mean 'fasterrcnn_resnet50_fpn"):
        task.defaults("torchvision:fasterrcnn_resnet50")
    with pytest.raises(SenetError, match="detection network of torchvision 'resnet50'"):
        task.defaults("torchvision:resnet50")
    with pytest.raises(SenetError, match="whole network"):
        task.build("torchvision:fcos_resnet50_fpn", num_classes=2, preprocessing=IMAGENET, options={},
                   head={"kind": "fcos"})  # fmt: skip
    assert task.defaults("torchvision:fasterrcnn_resnet50_fpn")[0] == 90
    assert task_named("segmentation").defaults("torchvision:deeplabv3_resnet50")[0] == 21
