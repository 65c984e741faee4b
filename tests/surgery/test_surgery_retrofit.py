"""`retrofit`: what it keeps, what it inserts, and what it refuses."""

from __future__ import annotations

import copy
import json
import pickle
from itertools import product
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import both
from torch import Tensor, nn

import senet
from senet.gates import gated_layers
from senet.nn import ATTENTIONS, PLACEMENTS, Attention
from senet.surgery import apply_insertion_points


class Block(nn.Module):
    """A bottleneck-like block in any number of dimensions."""

    def __init__(self, channels: int, ndim: int, stride: int = 1) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[ndim - 1]
        self.conv1, self.bn1 = conv(channels, channels, 3, stride, 1, bias=False), norm(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3, 1, 1, bias=False), norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Sequential(conv(channels, channels, 1, stride), norm(channels)) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.down is None else self.down(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class Net(nn.Module):
    def __init__(self, channels: int = 16, ndim: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[ndim - 1](3, channels, 3, padding=1)
        self.units = nn.Sequential(Block(channels, ndim), Block(channels, ndim, 2), Block(channels, ndim))
        self.fc = nn.Linear(channels, 5)
        randomise(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.units(self.stem(x)).flatten(2).mean(2))


def randomise(model: nn.Module) -> nn.Module:
    """No gamma, bias or statistic at its start: a branch that vanishes would hide every mistake."""
    torch.manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor.data, 0.5, 1.5) if "var" in name else nn.init.normal_(tensor.data, 0.3, 0.5)
    return model


def image(ndim: int = 2, side: int = 12, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *[side] * ndim, generator=torch.Generator().manual_seed(0))


def layers(model: nn.Module) -> list[Attention]:
    return [module for _, module in gated_layers(model).items() if isinstance(module, Attention)]


@pytest.fixture
def resnet() -> nn.Module:
    return randomise(torchvision.models.resnet18(num_classes=7))


# What is kept


NO_IDENTITY = {"sk", "split", "simam", "shuffle"}
KINDS = sorted(set(ATTENTIONS) - NO_IDENTITY)
QUICK = {*((kind, 2, True) for kind in KINDS), ("se", 1, False), ("se", 2, False), ("se", 3, True)}
"""Each kind on images, and SE in each dimension and mode."""


@pytest.mark.parametrize(
    ("kind", "ndim", "training"),
    [
        case if case in QUICK else pytest.param(*case, marks=pytest.mark.slow)
        for case in product(KINDS, (1, 2, 3), (False, True))
    ],
)
def test_output_stays_bit_for_bit_and_gates_learn(kind: str, ndim: int, training: bool) -> None:
    model = Net(ndim=ndim).train(training)
    twin = copy.deepcopy(model)
    # FcaNet's bottleneck has no biases: a single hidden unit may be dead by chance.
    options = {"reduction": 4} if kind == "fca" else {}
    report = senet.retrofit(model, ATTENTIONS[kind](**options), example_inputs=[image(ndim)])
    assert len(report.inserted) == len(layers(model)) >= 3
    assert torch.equal(model(image(ndim)), twin(image(ndim)))
    assert all(module.training is training for module in model.modules())
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    before = [[p.clone() for p in layer.parameters()] for layer in layers(model)]
    for _ in range(3):
        optimizer.zero_grad()
        model(image(ndim)).square().mean().backward()
        assert all(
            any(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters()) for layer in layers(model)
        )
        optimizer.step()
    for layer, was in zip(layers(model), before, strict=True):
        assert any(not torch.equal(new, old) for new, old in zip(layer.parameters(), was, strict=True))


@pytest.mark.parametrize("kind", sorted(NO_IDENTITY))
def test_attention_without_an_identity_start_is_refused(kind: str) -> None:
    model = Net()
    with pytest.raises(senet.SenetError, match="identity") as caught:
        senet.retrofit(model, ATTENTIONS[kind](), example_inputs=[image()])
    assert "\n" not in str(caught.value)
    assert not layers(model)


def test_shuffle_attention_is_inserted_without_its_shuffle() -> None:
    model = Net().eval()
    before = model(image())
    senet.retrofit(model, ATTENTIONS["shuffle"](shuffle=False), example_inputs=[image()])
    assert torch.equal(model(image()), before)


@settings(max_examples=settings.default.max_examples // 4)  # each a whole surgery
@given(
    channels=st.integers(2, 40),
    reduction=st.integers(1, 24),
    ndim=st.integers(1, 3),
    side=st.integers(5, 13),
    gate=st.sampled_from(["sigmoid", "hard-sigmoid", "tanh", "relu"]),
    squeeze=st.sampled_from(["mean", "max", "mean+max", "none"]),
)
def test_any_width_size_and_option_keeps_the_function(
    channels: int, reduction: int, ndim: int, side: int, gate: str, squeeze: str
) -> None:
    model = Net(channels, ndim).eval()
    x = image(ndim, side)
    before, attention = model(x), senet.SE(reduction, gate=gate, squeeze=squeeze)
    if reduction > channels:
        with pytest.raises(senet.SenetError, match=rf"use 1\.\.{channels}; reduction={channels // 2} fits"):
            senet.retrofit(model, attention, example_inputs=[x])
    else:
        report = senet.retrofit(model, attention, example_inputs=[x])
        assert [site.channels for site in report.inserted] == [channels] * 3
    assert torch.equal(model(x), before)


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("cifar_resnet20", False), ("cifar_resnet20", True), ("cifar_preresnet20", True), ("vgg11", False),
        ("mobilenet_v1_025", False),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("resnet18", False), ("resnet18", True), ("cifar_preresnet20", False), ("vgg11", True),
            ("mobilenet_v1_025", True))),
    ],
)  # fmt: skip
def test_own_networks_stay_bit_for_bit_on_the_kernel(name: str, training: bool) -> None:
    model = randomise(senet.create_model(name, **{"hidden": 64} if name == "vgg11" else {})).train(training)
    twin = copy.deepcopy(model)
    x = image(side=64)
    senet.retrofit(model)
    torch.manual_seed(0)  # for dropout
    after = model(x)
    torch.manual_seed(0)
    assert torch.equal(after, twin(x))


def test_keys_stay_and_old_and_new_checkpoints_load(resnet: nn.Module) -> None:
    old = copy.deepcopy(resnet.state_dict())
    senet.retrofit(resnet)
    assert old.keys() < resnet.state_dict().keys()
    added = resnet.state_dict().keys() - old.keys()
    assert all(".bn2.attention." in key for key in added)
    for layer in layers(resnet):
        nn.init.normal_(layer.fc2.weight)
    new = copy.deepcopy(resnet.state_dict())

    other = torchvision.models.resnet18(num_classes=7)
    senet.retrofit(other)
    other.load_state_dict(new)  # strict
    assert torch.equal(other.eval()(image(side=64)), resnet.eval()(image(side=64)))
    other.load_state_dict(old)  # strict too: what it doesn't hold stays
    assert torch.equal(other.layer1[0].bn2.attention.fc2.weight, new["layer1.0.bn2.attention.fc2.weight"])
    incomplete = {key: tensor for key, tensor in new.items() if not key.endswith("layer1.0.bn2.attention.fc2.bias")}
    with pytest.raises(RuntimeError, match=r"fc2\.bias"):
        other.load_state_dict(incomplete)


def test_plan_touches_nothing_and_says_the_same(resnet: nn.Module) -> None:
    resnet.train()
    resnet.layer1.eval()
    before, seed = copy.deepcopy(resnet.state_dict()), torch.get_rng_state()
    planned = senet.plan(resnet)
    assert torch.equal(torch.get_rng_state(), seed)
    assert resnet.training
    assert not resnet.layer1.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in resnet.modules())
    assert all(torch.equal(before[key], tensor) for key, tensor in resnet.state_dict().items())
    assert senet.retrofit(resnet) == planned
    assert torch.equal(torch.get_rng_state(), seed)


def test_report_counts_and_reads(resnet: nn.Module) -> None:
    params = sum(p.numel() for p in resnet.parameters())
    report = senet.retrofit(resnet)
    assert report.params == sum(p.numel() for p in resnet.parameters()) - params == 89_080
    assert report.macs == sum(2 * c * (c // 16) for c in (64, 64, 128, 128, 256, 256, 512, 512))
    assert [site.stage for site in report.inserted] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert [site.path for site in report.inserted][:3] == ["layer1.0.bn2", "layer1.1.bn2", "layer2.0.bn2"]
    assert json.loads(report.to_json())["inserted"][0]["attention"]["init"] == "identity"
    assert "8 insertion points, 89,080 parameters" in str(report)


def test_second_call_changes_nothing(resnet: nn.Module) -> None:
    senet.retrofit(resnet)
    keys = list(resnet.state_dict())
    report = senet.retrofit(resnet)
    assert not report.inserted
    assert {skipped.reason for skipped in report.skipped} == {"already has attention"}
    assert list(resnet.state_dict()) == keys
    vgg = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"], batch_norm=True)
    assert senet.retrofit(vgg, example_inputs=image(side=64)).inserted
    assert not senet.retrofit(vgg, example_inputs=image(side=64)).inserted


def test_remove_gives_the_original_back(resnet: nn.Module) -> None:
    resnet.eval()
    before, keys, modules = resnet(image(side=64)), list(resnet.state_dict()), dict(resnet.named_modules())
    senet.retrofit(resnet)
    report = senet.remove(resnet)
    assert len(report.inserted) == 8
    assert torch.equal(resnet(image(side=64)), before)
    assert list(resnet.state_dict()) == keys
    assert dict(resnet.named_modules()) == modules
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in resnet.modules())
    assert not senet.remove(resnet).inserted


@pytest.mark.parametrize("placement", sorted(PLACEMENTS))
def test_every_placement(placement: str) -> None:
    model = Net().eval()
    before = model(image())
    report = senet.retrofit(model, placement=placement)
    assert torch.equal(model(image()), before)
    paths = {site.path: site.side for site in report.inserted}
    if placement == "identity":  # only the projection is a module
        assert paths == {"units.1.down.1": "output"}
        assert "without a module" in report.skipped[0].reason
    else:
        end = {"standard": "bn2", "post": "", "pre": "conv1", "conv3x3": "bn2"}[placement]
        side = "input" if placement == "pre" else "output"
        assert paths == {f"units.{i}.{end}".rstrip("."): side for i in range(3)}
    # What is rescaled is what the placement says: a gate of zero there has that effect and no other.
    for layer in layers(model):
        nn.init.constant_(layer.fc2.bias, -100.0)
    gated, x = model.units[0](model.stem(image())), model.stem(image())
    expected = {
        "standard": x.relu(),
        "conv3x3": x.relu(),
        "post": torch.zeros_like(x),
        "pre": _unit_on(model.units[0], torch.zeros_like(x), x),
        "identity": _unit_on(model.units[0], x, x),
    }[placement]
    assert torch.allclose(gated, expected, atol=1e-6)


def _unit_on(unit: nn.Module, into: Tensor, shortcut: Tensor) -> Tensor:
    bare = copy.deepcopy(unit)
    senet.remove(bare)
    return (bare.bn2(bare.conv2(bare.bn1(bare.conv1(into)).relu())) + shortcut).relu()


# Where


def test_where_takes_patterns_types_lists_and_predicates(resnet: nn.Module) -> None:
    def paths(where: object) -> list[str]:
        return [site.path for site in senet.plan(resnet, where=where, example_inputs=image(side=32)).inserted]

    assert paths("layer4.*") == ["layer4.0.bn2", "layer4.1.bn2"]
    assert paths("layer[34]") == ["layer3.0.bn2", "layer3.1.bn2", "layer4.0.bn2", "layer4.1.bn2"]
    assert len(paths(torchvision.models.resnet.BasicBlock)) == 8
    assert paths(["layer1.0", "layer2.1"]) == ["layer1.0.bn2", "layer2.1.bn2"]
    assert paths(lambda path, module: path == "layer3.1") == ["layer3.1.bn2"]
    assert paths("conv1") == ["conv1"]
    assert paths("**.conv1") == [f"layer{i}.{j}.conv1" for i in range(1, 5) for j in range(2)]
    assert [site.path for site in senet.plan(resnet, stages=[5]).inserted] == ["layer4.0.bn2", "layer4.1.bn2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "layer4.**"}, "layer4.0 and also layer4.0.conv1 inside it"),
        ({"where": "layer9"}, "'layer9' matches no module of ResNet; the nearest are layer4"),
        ({"where": nn.Conv3d}, "Conv3d matches no module of ResNet"),
        ({"where": lambda path, module: True}, "select one of them"),
        ({"where": "fc"}, "attention needs one feature map"),
        ({"placement": "behind"}, "unknown placement 'behind'"),
        ({"stages": [7]}, "there is no stage 7; use 2 (56x56)"),
        ({"attention": senet.SK()}, "'sk' has no identity initialization"),
        ({"attention": "se"}, "not an attention spec"),
        ({"example_inputs": torch.zeros(1, 4, 32, 32)}, r"can't run on an input of shape \(1, 4, 32, 32\)"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)  # fmt: skip
def test_mistakes_are_told_and_change_nothing(resnet: nn.Module, options: dict, message: str) -> None:
    keys = list(resnet.state_dict())
    with pytest.raises(senet.SenetError, match=message.replace("(56x56)", r"\(56x56\)")):
        senet.retrofit(resnet, **options)
    assert list(resnet.state_dict()) == keys


def test_networks_without_a_place_are_told() -> None:
    with pytest.raises(senet.SenetError, match="has no convolution"):
        senet.retrofit(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(senet.SenetError, match="has no block"):
        senet.retrofit(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()))
    vit = torchvision.models.vit_b_16()
    with pytest.raises(senet.SenetError, match=r"VisionTransformer is a transformer.*only convolutions are conv_proj"):
        senet.retrofit(vit)


# Where it goes on to


def test_channels_last_types_and_submodules() -> None:
    model = Net().eval().to(memory_format=torch.channels_last)
    x = image().contiguous(memory_format=torch.channels_last)
    before = model(x)
    senet.retrofit(model.units, example_inputs=[torch.zeros(1, 16, 8, 8)])
    assert torch.equal(model(x), before)
    assert len(layers(model)) == 3

    halved = Net().to(torch.bfloat16).eval()
    before = halved(image().bfloat16())
    senet.retrofit(halved)
    assert {p.dtype for p in halved.parameters()} == {torch.bfloat16}
    assert torch.equal(halved(image().bfloat16()), before)


def test_copies_and_pickles(tmp_path: Path) -> None:
    model = Net().eval()
    senet.retrofit(model)
    for layer in layers(model):
        nn.init.normal_(layer.fc2.weight)
    expected = model(image())
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    torch.save(model, tmp_path / "whole.pt")
    saved = torch.load(tmp_path / "whole.pt", weights_only=False)
    for other in (copied, pickled, saved):
        assert torch.equal(other(image()), expected)
        nn.init.zeros_(layers(other)[0].fc2.weight)  # a layer of its own
        assert not torch.equal(other(image()), expected)
        assert len(senet.remove(other).inserted) == 3
        other.load_state_dict({k: v for k, v in model.state_dict().items() if "attention" not in k})
    assert torch.equal(model(image()), expected)


def test_export_and_compile() -> None:
    model = Net().eval()
    senet.retrofit(model)
    for layer in layers(model):
        nn.init.normal_(layer.fc2.weight)
    expected = model(image())
    program = torch.export.export(model, (image(),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    assert torch.allclose(program.module()(image()), expected, atol=1e-6)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(image()), expected, atol=1e-6)


def test_only_the_gates_train() -> None:
    model = Net().eval()
    with pytest.raises(senet.SenetError, match="has no attention to train"):
        senet.trainable(model, "attention")
    senet.retrofit(model)
    gates = senet.trainable(model, "attention")
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD(gates, 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(image()).square().sum().backward()
        optimizer.step()
    assert len(gates) == 12
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in frozen.items())
    assert len(senet.trainable(model, "all")) == len(list(model.parameters()))
    with pytest.raises(senet.SenetError, match="unknown parameter group"):
        senet.trainable(model, "gates")


def test_sites_can_be_applied_to_another_network() -> None:
    first, second = Net().eval(), Net().eval()
    apply_insertion_points(second, senet.retrofit(first).inserted)
    assert list(first.state_dict()) == list(second.state_dict())
    with pytest.raises(senet.SenetError, match=r"no module 'units\.0\.bn2'"):
        apply_insertion_points(nn.Sequential(), senet.plan(Net()).inserted)


@pytest.mark.slow
def test_under_data_parallel(tmp_path: Path) -> None:
    """Two processes, each with half of the batch: the gates' gradients are those of the whole."""
    model = Net().eval()
    senet.retrofit(model)
    model(image(count=4)).square().mean().backward()
    expected = [p.grad.clone() for layer in layers(model) for p in layer.parameters()]
    both(_rank, str(tmp_path))
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def _rank(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    model = Net().eval()
    senet.retrofit(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    with pytest.raises(senet.SenetError, match="retrofit the network first, then wrap it"):
        senet.retrofit(wrapped)
    wrapped(image(count=4)[2 * rank : 2 * rank + 2]).square().mean().backward()
    if rank == 0:
        torch.save([p.grad for layer in layers(model) for p in layer.parameters()], f"{folder}/gradients.pt")
    dist.destroy_process_group()
