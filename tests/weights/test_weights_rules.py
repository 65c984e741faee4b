"""The renaming tables: both directions undo each other, every key is used once, what is left over is named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import senet
from senet.errors import CheckpointError
from senet.weights import LAYOUTS
from senet.weights.rules import Folded, Rule, Table, under

ALL_TABLES = list(dict.fromkeys(table for tables in LAYOUTS.values() for table in tables))
SMALL_NAMES = (
    "resnet18_v1_5", "se_resnet18", "se_resnet50_v1_5", "senet154", "se_cifar_resnet20", "cifar_preresnet20", "vgg16",
    "densenet121", "mobilenet_v1", "shufflenet_v1_g3", "bn_inception", "se_bn_inception", "inception_v3",
    "inception_resnet_v2",
)  # fmt: skip
numbers = st.integers(min_value=0, max_value=400)


def _networks() -> dict[str, dict[str, torch.Tensor]]:
    return {name: senet.create_model(name, device="meta").state_dict() for name in SMALL_NAMES}


NETWORKS = _networks()


@given(s=numbers, u=numbers, p=st.sampled_from(["weight", "bias", "running_mean", "num_batches_tracked"]))
def test_a_rule_and_its_reverse_undo_each_other(s: int, u: int, p: str) -> None:
    rule = Rule("features.stage{s}.unit{u+1}.{p}", "stages.{s+1}.{u}.{p}")
    theirs, ours = f"features.stage{s}.unit{u + 1}.{p}", f"stages.{s + 1}.{u}.{p}"
    assert rule.rename(theirs) == ours
    assert rule.rename(ours, back=True) == theirs


RESEMBLING = (
    "stage1.unit0.weight", "stage1.unit01.weight", "stage1.unit1.gamma", "xstage1.unit1.bias", "stage-1.unit1.weight",
    "stage1.unit1.weight.x", "",
)  # fmt: skip


@pytest.mark.parametrize("key", RESEMBLING)
def test_a_key_that_only_resembles_is_not_taken(key: str) -> None:
    assert Rule("stage{s}.unit{u+1}.{p}", "stages.{s}.{u}.{p}").rename(key) is None


def test_a_number_below_the_other_sides_first_is_not_taken() -> None:
    assert Rule("layer{s}.{p}", "stages.{s+1}.{p}").rename("stages.0.weight", back=True) is None
    assert Rule("repeat.{u:[0-8]}.{p}", "stages.5.{u+1}.{p}").rename("stages.5.10.weight", back=True) is None


def _covering() -> list[tuple[str, Table]]:
    """Every table with each network that it is for."""
    found = []
    for table in ALL_TABLES:
        usable = [
            n for n, own in NETWORKS.items() if not table.one_way and not table.translate(own, back=True).leftover
        ]
        found += [(name, table) for name in usable]
    return found


@pytest.mark.parametrize(("name", "table"), _covering(), ids=str)
def test_there_and_back_uses_every_key_once(name: str, table: Table) -> None:
    own = NETWORKS[name]
    there = table.translate(own, back=True)
    assert len(there.tensors) == len(own)
    back = table.translate(dict(reversed(there.tensors.items())))
    assert back.leftover == []
    assert back.tensors.keys() == own.keys()
    assert {key: t.shape for key, t in back.tensors.items()} == {key: t.shape for key, t in own.items()}


def test_every_table_is_for_some_network() -> None:
    covered = {table for _, table in _covering()}
    special = ("CIFAR", "VGG-11", "VGG-13", "VGG-19")  # for other depths, or for options
    assert not [t for t in ALL_TABLES if not t.one_way and t not in covered and not any(s in t.title for s in special)]


@given(st.text(min_size=1, max_size=30))
def test_a_leftover_key_is_named(key: str) -> None:
    table = LAYOUTS["torchvision"][0]
    tensors = {"fc.weight": torch.zeros(1), f"no.{key}": torch.zeros(1)}
    assert table.translate(tensors).leftover == [f"no.{key}"]


def test_two_names_for_one_weight_are_both_named() -> None:
    [table] = [t for t in LAYOUTS["torchvision"] if "DenseNet" in t.title]
    layer = "features.denseblock1.denselayer1"
    with pytest.raises(CheckpointError, match=r"norm\.1\.weight and .*norm1\.weight are two names for one weight"):
        table.translate({f"{layer}.norm1.weight": torch.zeros(1), f"{layer}.norm.1.weight": torch.zeros(1)})


def test_kernels_become_matrices_and_back() -> None:
    table = Table("x", "x", (Rule("fc.{p}", "fc.{p}", kernel=7),))
    kernel = torch.randn(3, 2, 7, 7)
    matrix = table.translate({"fc.weight": kernel, "fc.bias": torch.zeros(3)}).tensors["fc.weight"]
    assert torch.equal(matrix, kernel.flatten(1))
    assert torch.equal(table.translate({"fc.weight": matrix}, back=True).tensors["fc.weight"], kernel)
    assert table.translate({"fc.weight": torch.zeros(3, 2, 5, 5)}).tensors["fc.weight"].ndim == 4


def test_a_folded_bias_moves_the_mean() -> None:
    rules = (Rule("bn.{p}", "1.{p}"), Folded("conv.bias", "1.running_mean"))
    table = Table("x", "x", rules)
    found = table.translate({"conv.bias": torch.ones(2), "bn.running_mean": torch.zeros(2)})
    assert torch.equal(found.fold("1.running_mean"), -torch.ones(2, dtype=torch.float64))
    assert not found.leftover
    assert table.one_way


def test_prefixes() -> None:
    assert under("a.", "b.", [Rule("{p}", "c.{p}", kernel=1)]) == (Rule("a.{p}", "b.c.{p}", kernel=1),)
