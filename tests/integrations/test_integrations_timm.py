"""A network of timm's registry keeps timm's contract: its users and tools call these, whatever the family."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.models import MODELS
from senet.weights import to_layout

timm = pytest.importorskip("timm")

import senet.integrations.timm as registration  # noqa: E402
from senet.integrations.timm_network import TimmNetwork  # noqa: E402

NAMES = [f"senet_{name}" for name in senet.list_models()]
QUICK = (
    "senet_se_resnet18", "senet_se_resnet50", "senet_se_cifar_resnet20", "senet_se_cifar_preresnet20", "senet_se_vgg11",
    "senet_se_densenet121", "senet_se_mobilenet_v1_025", "senet_se_shufflenet_v1_g1", "senet_se_bn_inception",
)  # fmt: skip
"""One of each family and head, made shallow; the slow cases are all networks as they are."""

CASES = [
    *(pytest.param(name, True, id=f"{name}-shallow") for name in QUICK),
    *(pytest.param(name, False, id=name, marks=pytest.mark.slow) for name in NAMES),
]
each_network = pytest.mark.parametrize(("name", "shallow"), CASES)


def create(name: str, shallow: bool, **options: Any) -> Any:
    spec = MODELS[name.removeprefix("senet_")]
    less = {}
    if shallow and hasattr(spec, "depths"):
        less["depths"] = tuple(min(depth, 2) for depth in spec.depths)
    if shallow and hasattr(spec, "hidden"):
        less["hidden"] = 64
    return timm.create_model(name, **less, **options)


def pictures(model: Any, count: int = 2, channels: int = 3) -> Tensor:
    side = {32: 32, 224: 64}.get(model.default_cfg["input_size"][1], 139)
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Let statistics, gammas, biases and gates count."""
    random = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=random)
            module.bias.normal_(0, 0.3, generator=random)
            module.running_mean.normal_(0, 0.3, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)


# The registry.


def test_each_network_is_registered_under_its_name():
    assert sorted(timm.list_models("senet_*")) == sorted(NAMES)
    assert sorted(timm.list_models("senet_se_resnext*_32x4d")) == [
        "senet_se_resnext101_32x4d",
        "senet_se_resnext50_32x4d",
    ]
    assert all(timm.is_model(name) for name in NAMES)


def test_tags_are_those_of_the_public_checkpoints():
    tags = [name.partition(".")[2] for name in timm.list_pretrained("senet_se_resnet50_v1_5.*")]
    published = list(senet.weights.cards("se_resnet50_v1_5"))
    assert sorted(tags) == sorted(published)
    assert timm.models.get_pretrained_cfg("senet_se_resnet50_v1_5").tag == published[0]
    assert "senet_se_cifar_resnet20" not in timm.list_models("senet_*", pretrained=True)


def test_timms_own_networks_are_untouched():
    model = timm.create_model("resnet18")
    assert type(model).__module__ == "timm.models.resnet"


# The contract.


@each_network
def test_the_configuration_describes_the_network(name: str, shallow: bool) -> None:
    with torch.device("meta"):
        model = create(name, shallow).eval()
        cfg = model.default_cfg
        assert cfg is model.pretrained_cfg
        assert cfg["architecture"] == name
        assert model.num_classes == cfg["num_classes"] == MODELS[name.removeprefix("senet_")].num_classes
        features = model.forward_features(torch.empty(1, *cfg["input_size"]))
        assert features.shape == (1, model.num_features, *cfg["pool_size"])
        assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    keys = model.state_dict().keys()
    assert {f"{cfg['first_conv']}.weight", f"{cfg['classifier']}.weight"} <= keys
    convolutions = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    assert convolutions[0] == cfg["first_conv"]
    assert model.get_classifier(name_only=True) == cfg["classifier"]
    assert model.get_classifier() is model.get_submodule(cfg["classifier"])
    assert timm.data.resolve_data_config(model=model)["input_size"] == cfg["input_size"]


@each_network
def test_it_computes_the_same_as_here(name: str, shallow: bool) -> None:
    model = create(name, shallow).eval()
    randomise(model)
    spec = model.spec
    ours = spec.build().eval()
    ours.load_state_dict(model.state_dict())
    images = pictures(model).double()
    model.double(), ours.double()
    with torch.no_grad():
        torch.testing.assert_close(model(images), ours(images), rtol=1e-9, atol=1e-9)


@each_network
def test_a_training_step_reaches_every_parameter(name: str, shallow: bool) -> None:
    model = create(name, shallow, num_classes=42).train()
    images = pictures(model, 4)
    gradients = []
    for recompute in (False, True):
        model.set_grad_checkpointing(recompute)
        assert model.grad_checkpointing is recompute
        model.zero_grad()
        torch.manual_seed(0)
        output = model(images)
        assert output.shape == (4, 42)
        (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        missing = [key for key, parameter in model.named_parameters() if parameter.grad is None]
        assert not missing
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert gradients[0].isfinite().all()
    if "shake" not in name:  # its random numbers aren't drawn again
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * gradients[0].abs().max().item())


@each_network
def test_classifier_and_pool_can_be_removed(name: str, shallow: bool) -> None:
    model = create(name, shallow).eval()
    images = pictures(model)
    with torch.no_grad():
        features = model.forward_features(images)
        pooled = model.forward_head(features, pre_logits=True)
        torch.testing.assert_close(model.forward_head(features), model(images))
        torch.testing.assert_close(model.get_classifier()(pooled), model(images))
        model.reset_classifier(0)
        assert model.num_classes == 0
        torch.testing.assert_close(model(images), pooled)
        assert isinstance(model.get_classifier(), nn.Identity)
        assert create(name, shallow, num_classes=0).eval()(images).shape == (2, model.head_hidden_size)
        model.reset_classifier(7)
        assert model.num_classes == 7
        assert model(images).shape == (2, 7)
        if "vgg" in name:
            with pytest.raises(senet.SenetError, match="7x7 cells"):
                model.reset_classifier(0, "")
            return
        model.reset_classifier(0, "")
        torch.testing.assert_close(model(images), features)
        assert create(name, shallow, num_classes=0, global_pool="").eval()(images).shape == features.shape
        model.reset_classifier(3, "max")
        torch.testing.assert_close(model.forward_head(features, pre_logits=True), features.amax((2, 3)))
        model.reset_classifier(3, "catavgmax")
        assert model.head_hidden_size == 2 * model.num_features
        assert model(images).shape == (2, 3)


@each_network
def test_feature_maps_are_as_described(name: str, shallow: bool) -> None:
    model = create(name, shallow, features_only=True).eval()
    channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
    assert len(channels) >= 3
    images = pictures(model)
    with torch.no_grad():
        found = model(images)
    assert [feature_map.shape[1] for feature_map in found] == channels
    for feature_map, reduction in zip(found, reductions, strict=True):
        missing = 4 if "inception_v3" in name or "inception_resnet" in name else 0  # unpadded convolutions
        largest = math.ceil(images.shape[2] / reduction)
        assert largest - missing <= feature_map.shape[2] == feature_map.shape[3] <= largest + 1
        assert feature_map.isfinite().all()
    # Selected ones are these ones, and what lies after them isn't built.
    some = create(name, shallow, features_only=True, out_indices=(0, 1)).eval()
    assert some.feature_info.channels() == channels[:2]
    expected = {key: value for key, value in model.state_dict().items() if key in some.state_dict()}
    assert expected.keys() == some.state_dict().keys() < model.state_dict().keys()
    some.load_state_dict(expected)
    with torch.no_grad():
        for one, other in zip(some(images), found, strict=False):
            torch.testing.assert_close(one, other)


@each_network
def test_intermediates_are_the_modules_outputs(name: str, shallow: bool) -> None:
    model = create(name, shallow).eval()
    images = pictures(model)
    info = timm.models.FeatureInfo(model.feature_info, len(model.feature_info))
    outputs: dict[str, Tensor] = {}
    for path in info.module_name():
        module = model.get_submodule(path)
        module.register_forward_hook(lambda _m, _i, out, path=path: outputs.update({path: out.clone()}))
    with torch.no_grad():
        last, maps = model.forward_intermediates(images)
        torch.testing.assert_close(last, model.forward_features(images))
        assert len(maps) == len(info.channels())
        for feature_map, path in zip(maps, info.module_name(), strict=True):
            torch.testing.assert_close(feature_map, outputs[path])
        chosen = model.forward_intermediates(images, indices=2, intermediates_only=True)
        torch.testing.assert_close(chosen, maps[-2:])
        early, two = model.forward_intermediates(images, indices=[0, 1], stop_early=True)
        torch.testing.assert_close(two, maps[:2])
        torch.testing.assert_close(early, maps[1])
        torch.testing.assert_close(model.forward_intermediates(images, indices=[-1])[1], maps[-1:])
    assert model.prune_intermediate_layers(1) == [len(maps) - 1]


@each_network
def test_layer_wise_rates_grow_with_depth(name: str, shallow: bool) -> None:
    from timm.models import group_parameters
    from timm.optim import param_groups_layer_decay

    with torch.device("meta"):
        model = create(name, shallow)
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    order = [layers[key] for key, _ in model.named_parameters()]
    assert order == sorted(order), "from the image to the classifier"
    blocks = sum(len(stage) for stage in model.stages.values())
    has_stem = any(key.startswith("stem") for key in layers)
    assert max(order) == blocks + has_stem
    coarse = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert max(coarse.values()) == len(model.stages) + has_stem
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    assert len(scale) == len(order)
    assert scale[id(model.get_classifier().weight)] == 1.0
    assert scale[id(next(model.parameters()))] == 0.5 ** max(order)


@each_network
def test_torch_fx_traces_it_with_timms_leaves(name: str, shallow: bool) -> None:
    from timm.models import create_feature_extractor, get_graph_node_names

    model = create(name, shallow, num_classes=5).eval()
    images = pictures(model)
    with torch.no_grad():
        expected = model(images)
        train_nodes, nodes = get_graph_node_names(model)
        traced = create_feature_extractor(model, {nodes[-1]: "out"})
        assert torch.equal(traced(images)["out"], expected)
    assert train_nodes
    traced.train()(images)["out"].sum().backward()
    assert all(parameter.grad is not None for parameter in traced.parameters())


# Options.


def test_images_of_other_channels():
    model = timm.create_model("senet_se_resnet18", in_chans=4, num_classes=7).eval()
    assert model(torch.rand(1, 4, 64, 64)).shape == (1, 7)
    assert model.in_chans == 4
    assert model.spec.in_channels == 4


@pytest.mark.parametrize("name", ["senet_se_resnet18", "senet_se_densenet121", "senet_se_mobilenet_v1_025"])
@pytest.mark.parametrize("stride", [8, 16])
def test_output_stride(name: str, stride: int) -> None:
    model = timm.create_model(name, features_only=True, output_stride=stride).eval()
    usual = timm.create_model(name, features_only=True)
    assert model.feature_info.reduction() == [min(r, stride) for r in usual.feature_info.reduction()]
    assert model.state_dict().keys() == usual.state_dict().keys()
    with torch.no_grad():
        found = model(torch.rand(1, 3, 64, 64))
    assert [feature_map.shape[2] for feature_map in found] == [64 // r for r in model.feature_info.reduction()]


def test_stem_maps_alone():
    model = timm.create_model("senet_se_resnet18", features_only=True, out_indices=(0,)).eval()
    assert [tuple(found.shape) for found in model(torch.rand(1, 3, 64, 64))] == [(1, 64, 32, 32)]
    assert all(key.startswith("model.stem.") for key in model.state_dict())


def test_dropout():
    for name in ("senet_se_resnet18", "senet_se_mobilenet_v1_025", "senet_se_vgg11"):
        with torch.device("meta"):
            model = timm.create_model(name, drop_rate=0.3)
        assert {layer.p for layer in model.head.modules() if isinstance(layer, nn.Dropout)} == {0.3}


def test_attention_is_an_option():
    model = timm.create_model("senet_resnet18", attention=senet.ECA())
    assert model.spec.attention == senet.ECA()


def test_type_and_device():
    model = timm.create_model("senet_se_resnet18", device="meta", dtype=torch.bfloat16)
    assert {(parameter.device.type, parameter.dtype) for parameter in model.parameters()} == {("meta", torch.bfloat16)}
    model.reset_classifier(3)
    assert (model.get_classifier().weight.device.type, model.get_classifier().weight.dtype) == ("meta", torch.bfloat16)


def test_errors_name_the_remedy():
    with pytest.raises(senet.SenetError, match="drop_path_rate"):
        timm.create_model("senet_se_resnet18", drop_path_rate=0.1)
    with pytest.raises(senet.SenetError, match="use num_classes=0"):
        timm.create_model("senet_se_resnet18", global_pool="")
    with pytest.raises(senet.SenetError, match="5 feature maps, 0 to 4"):
        timm.create_model("senet_se_resnet18", features_only=True, out_indices=(5,))
    model = timm.create_model("senet_se_resnet18")
    with pytest.raises(senet.SenetError, match="NCHW"):
        model.forward_intermediates(torch.rand(1, 3, 32, 32), output_fmt="NLC")


def test_optimize_finds_as_much_as_in_the_original():
    model = timm.create_model("senet_se_resnet18_v1_5").eval()
    ours = model.spec.build().eval()
    ours.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        fast, report = senet.optimize(copy.deepcopy(model))
        _, expected = senet.optimize(ours)
        torch.testing.assert_close(fast(images), before, rtol=1e-4, atol=1e-4)
    assert re.sub(r"\d+\.\d+ ?\w+", "", str(report)) == re.sub(r"\d+\.\d+ ?\w+", "", str(expected))


# Weights.


def test_no_weights_is_a_clear_error():
    with pytest.raises(senet.SenetError, match="cifar_resnet20 has no public checkpoint"):
        timm.create_model("senet_cifar_resnet20", pretrained=True)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A checkpoint as timm publishes it, in place of the download. Returns the network with the same weights."""
    options = senet.weights.find_card("se_resnet18", "in1k").network_options()
    network = senet.create_model("se_resnet18", **options)
    randomise(network)
    path = tmp_path / "model.pth"
    torch.save(to_layout(network, "timm"), path)
    asked = []
    monkeypatch.setattr(registration, "fetch", lambda card, *, cache: (asked.append((card.repo, cache)), path)[1])
    network.asked = asked
    return network.eval()


def test_pretrained_weights(published, tmp_path):
    model = timm.create_model("senet_se_resnet18.in1k", pretrained=True, cache_dir=tmp_path).eval()
    assert published.asked == [("timm/legacy_seresnet18.in1k", tmp_path)]
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), published(images))
        assert model.pretrained_cfg["tag"] == "in1k"
        features = timm.create_model("senet_se_resnet18", pretrained=True, features_only=True).eval()
        torch.testing.assert_close(features(images)[-1], published.forward_features(images))
        pooled = timm.create_model("senet_se_resnet18", pretrained=True, num_classes=0).eval()
        torch.testing.assert_close(pooled(images), published.forward_features(images).mean((2, 3)))


def test_pretrained_weights_for_other_classes_and_channels(published):
    with pytest.warns(UserWarning, match="head.fc"):
        model = timm.create_model("senet_se_resnet18", pretrained=True, num_classes=5, in_chans=1)
    assert model.get_classifier().out_features == 5
    expected = published.state_dict()["stem.0.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(model.state_dict()["stem.0.0.weight"], expected)
    last = [list(network.stages["5"].parameters())[-1] for network in (model, published)]
    torch.testing.assert_close(*last)


def test_a_users_own_file(tmp_path):
    network = senet.create_model("se_cifar_resnet20", num_classes=10)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    loaded = [
        timm.create_model("senet_se_cifar_resnet20", checkpoint_path=tmp_path / "own.pth"),
        timm.create_model(
            "senet_se_cifar_resnet20", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "own.pth")}
        ),
    ]
    for model in loaded:
        assert isinstance(model, TimmNetwork)
        assert all(torch.equal(value, network.state_dict()[key]) for key, value in model.state_dict().items())
