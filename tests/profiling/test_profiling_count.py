"""Counting: by hand, in parts, in any dimension, and without a trace on the network."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.models import MODELS
from senet.nn import SE, Attention, SqueezeExcite
from senet.profiling import cost


class Tiny(nn.Module):
    """Convolution, attention, convolution in groups, classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=True)
        self.norm = nn.BatchNorm2d(8)
        self.se = SqueezeExcite(8, reduction=4)
        self.wide = nn.Conv2d(8, 16, 3, groups=2, bias=False)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(self.se(self.norm(self.stem(x)).relu()))
        return self.fc(x.mean((2, 3)))


def test_by_hand() -> None:
    found = cost(Tiny(), (3, 10, 12))
    params = {"stem": 8 * 3 * 9 + 8, "norm": 16, "se": 8 * 2 + 2 + 2 * 8 + 8, "wide": 16 * 4 * 9, "fc": 16 * 5 + 5}
    macs = {"stem": 8 * 3 * 9 * (5 * 6), "norm": 0, "se": 2 * 8 * 2, "wide": 16 * 4 * 9 * (3 * 4), "fc": 16 * 5}
    assert {part.name: part.params for part in found.parts} == params
    assert {part.name: part.macs for part in found.parts} == macs
    assert (found.params, found.macs) == (sum(params.values()), sum(macs.values()))
    assert (found.attention_params, found.attention_macs) == (params["se"], macs["se"])
    assert found.attention_params_share == params["se"] / found.params
    assert found.attention_macs_share == macs["se"] / found.macs
    assert (found.name, found.input_size) == ("", (3, 10, 12))
    assert found.parts[2].attention_params == params["se"]
    assert found.parts[0].attention_params == 0


def test_the_printed_table() -> None:
    text = str(cost(Tiny(), (3, 10, 12)))
    assert [line.split()[0] for line in text.splitlines()] == ["part", "stem", "norm", "se", "wide", "fc", "total"]
    assert "42 (100.00%)" in text
    assert len({len(line) for line in text.splitlines()}) == 1


class Nested(Attention):
    """Two blocks in one, as scSE and CBAM are."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.first = SqueezeExcite(channels, reduction=2)
        self.second = SqueezeExcite(channels, reduction=4, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        return 0.5 * (self.first.gate(x) + self.second.gate(x)) + 0 * self.first(x)


def test_nested_attention_is_counted_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Nested(8))
    found = cost(model, (3, 4, 4))
    inner = 2 * 8 * 4 + 4 + 8 + 2 * 8 * 2
    assert found.attention_params == inner == sum(p.numel() for p in model[1].parameters())
    # The first block's matrices twice (its gate alone, and its forward), the second's once.
    assert found.attention_macs == 2 * (2 * 8 * 4) + 2 * 8 * 2
    assert cost(model[1], (8, 4, 4)).attention_macs == found.attention_macs


@pytest.mark.parametrize("kind", sorted(senet.nn.ATTENTIONS))
def test_every_attention_is_all_attention(kind: str) -> None:
    block = senet.nn.ATTENTIONS[kind]().build(64)
    found = cost(block, (64, 9, 9))
    assert found.attention_params == found.params == sum(p.numel() for p in block.parameters())
    assert found.attention_macs == found.macs


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (i % 6 > 0)) for i, name in enumerate(sorted(MODELS))]
)
def test_parts_add_up(name: str) -> None:
    model = senet.create_model(name, device="meta")
    found = cost(model, (3, 96, 96))
    for field in ("params", "macs", "attention_params", "attention_macs"):
        assert sum(getattr(part, field) for part in found.parts) == getattr(found, field) >= 0
    assert [part.name for part in found.parts] == [
        name
        for name in ("stem", *(f"stages.{key}" for key in model.stages), "final", "head")
        if name not in ("stem", "final") or any(True for _ in model.get_submodule(name).parameters())
    ]
    assert (found.attention_params > 0) == (model.spec.attention is not None)


class Contained(nn.Module):
    """A user's network: containers without a forward of their own, a part used twice, a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(7))
        self.mix = nn.Parameter(torch.ones(6, 6))
        self.blocks = nn.ModuleList(nn.ModuleDict({"conv": nn.Conv2d(6, 6, 1), "se": SE(2).build(6)}) for _ in range(2))
        self.named = nn.ModuleDict({"first": nn.Conv2d(3, 6, 1), "again": nn.Conv2d(6, 6, 1, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.named["first"](x)
        for block in self.blocks:
            x = block["se"](block["conv"](x))
        x = self.named["again"](self.named["again"](x))
        return x.mean((2, 3)) @ self.mix


def test_a_users_network_with_containers() -> None:
    found = cost(Contained(), (3, 2, 2))
    names = [part.name for part in found.parts]
    assert names == ["blocks.0", "blocks.1", "named.first", "named.again", "(own)"]
    by_name = {part.name: part for part in found.parts}
    assert by_name["blocks.0"].macs == 6 * 6 * 4 + 2 * 6 * 3
    assert by_name["blocks.0"].attention_macs == 2 * 6 * 3
    assert by_name["named.again"].macs == 2 * 6 * 6 * 4
    assert (by_name["(own)"].params, by_name["(own)"].macs) == (7 + 36, 6 * 6)
    assert found.macs == 3 * 6 * 4 + 2 * (6 * 6 * 4 + 2 * 6 * 3) + 2 * 6 * 6 * 4 + 6 * 6
    for field in ("params", "macs", "attention_params", "attention_macs"):
        assert sum(getattr(part, field) for part in found.parts) == getattr(found, field)


def test_a_part_under_two_names_is_counted_once() -> None:
    shared = nn.Linear(4, 4)
    found = cost(nn.Sequential(shared, nn.ReLU(), shared), (4,))
    assert (found.params, found.macs) == (20, 2 * 16)


@pytest.mark.parametrize(("ndim", "size"), [(1, (4, 9)), (3, (4, 3, 5, 7))])
def test_signals_and_volumes(ndim: int, size: tuple[int, ...]) -> None:
    convolution = {1: nn.Conv1d, 3: nn.Conv3d}[ndim](4, 8, 3, padding=1)
    model = nn.Sequential(convolution, SqueezeExcite(8, 4, ndim=ndim))
    positions = torch.Size(size[1:]).numel()
    found = cost(model, size)
    assert found.macs == 4 * 8 * 3**ndim * positions + 2 * 8 * 2
    assert found.attention_macs == 2 * 8 * 2


def _state(model: nn.Module) -> dict[str, Any]:
    return {name: (module.training, len(module._forward_hooks)) for name, module in model.named_modules()}


@pytest.mark.parametrize("size", [(3, 32, 32), (5, 32, 32), (3,)])
def test_the_network_is_left_as_it_was(size: tuple[int, ...]) -> None:
    model = senet.create_model("se_cifar_resnet20", depth=1)
    model.stages["3"].eval()
    model.stages["2"][0].branch.bn1.eval()
    before, tensors = _state(model), copy.deepcopy(model.state_dict())
    pointers = [p.data_ptr() for p in model.parameters()]
    if size == (3, 32, 32):
        cost(model, size)
    else:
        with pytest.raises(senet.SenetError, match="ConvNet can't be counted at input_size="):
            cost(model, size)
    assert _state(model) == before
    assert pointers == [p.data_ptr() for p in model.parameters()]
    assert all(torch.equal(tensors[key], value) for key, value in model.state_dict().items())
    model(torch.randn(2, 3, 16, 16)).sum().backward()


class Picky(nn.Module):
    """Refuses as users' networks do."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "assert":
            assert x.shape[-1] == 224, "images must be 224 pixels wide"
        if self.how == "type":
            return self.conv(x, 2)
        if self.how == "bare":
            raise NotImplementedError
        if self.how == "index":
            return (x, x)[x.shape[-1]]
        return self.conv(x) * x.sum().item()


@pytest.mark.parametrize("how", ["assert", "bare", "type", "index", "value"])
def test_a_network_that_refuses(how: str) -> None:
    with pytest.raises(senet.SenetError, match="Picky can't be counted"):
        cost(Picky(how), (3, 8, 8))


def test_half_precision_and_other_devices() -> None:
    want = cost(Tiny(), (3, 10, 12))
    assert cost(Tiny().half(), (3, 10, 12)) == want
    assert cost(Tiny().to("meta"), [3, 10, 12]) == want


def test_ready_for_json() -> None:
    found = cost(Tiny(), (3, 10, 12))
    listed = json.loads(json.dumps(found.to_dict()))
    assert listed["macs"] == found.macs
    assert listed["attention_params_share"] == found.attention_params_share
    assert [part["name"] for part in listed["parts"]] == [part.name for part in found.parts]
    assert listed["input_size"] == [3, 10, 12]


def test_a_network_without_weights() -> None:
    found = cost(nn.ReLU(), (3, 4, 4))
    assert (found.params, found.macs, found.parts) == (0, 0, ())
    assert found.attention_params_share == found.attention_macs_share == 0
    json.dumps(found.to_dict())
    str(found)


def test_layers_that_are_called_by_keyword():
    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return torch.sigmoid(input=torch.nn.functional.relu(input=self.conv(x)))

    assert cost(Named(), (3, 2, 2)).macs == 3 * 4 * 4
