"""Specs as data: from a mapping, from the command line, and what they refuse."""

from __future__ import annotations

import dataclasses

import pytest

import senet.nn
from senet.errors import UnknownNameError
from senet.nn import (
    ATTENTIONS,
    BAM,
    CBAM,
    CECA,
    ECA,
    ELA,
    EMA,
    ESE,
    FCA,
    GC,
    GCT,
    GE,
    GRN,
    LC0,
    SE,
    SGE,
    SK,
    SRM,
    AttentionSpec,
    Channel,
    Coord,
    ScSE,
    Shuffle,
    SimAM,
    SpatialSE,
    Split,
    Strip,
    Triplet,
)  # fmt: skip
from senet.nn import attention_from_dict as from_dict
from senet.nn import parse_attention as parse


def test_table_names_every_spec():
    assert dict(ATTENTIONS) == {
        "se": SE,
        "eca": ECA,
        "ese": ESE,
        "ge": GE,
        "sse": SpatialSE,
        "scse": ScSE,
        "cbam": CBAM,
        "bam": BAM,
        "sk": SK,
        "channel": Channel,
        "ceca": CECA,
        "srm": SRM,
        "gct": GCT,
        "fca": FCA,
        "lc0": LC0,
        "coord": Coord,
        "ela": ELA,
        "simam": SimAM,
        "ema": EMA,
        "triplet": Triplet,
        "shuffle": Shuffle,
        "sge": SGE,
        "gc": GC,
        "grn": GRN,
        "strip": Strip,
        "split": Split,
    }


def test_public_names_exist_once_and_in_order():
    assert all(hasattr(senet.nn, name) for name in senet.nn.__all__)
    assert len(set(senet.nn.__all__)) == len(senet.nn.__all__)


def test_defaults_of_se_are_the_papers():
    assert SE().to_dict() == {
        "kind": "se",
        "reduction": 16,
        "hidden_channels": None,
        "rounding": "floor",
        "squeeze": "mean",
        "gate": "sigmoid",
        "bias": True,
        "init": "default",
    }


def test_a_spec_is_a_value():
    assert SE() == SE(reduction=16) != SE(reduction=8)
    assert len({SE(), SE(reduction=16), ECA()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        SE().reduction = 8  # type: ignore[misc]
    with pytest.raises(TypeError, match="abstract"):
        AttentionSpec()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("none", None),
        ("se", SE()),
        (" se : reduction = 8 , gate = hard-sigmoid ", SE(reduction=8, gate="hard-sigmoid")),
        ("se:bias=false,squeeze=mean+max,init=identity", SE(bias=False, squeeze="mean+max", init="identity")),
        ("se:hidden_channels=12", SE(hidden_channels=12)),
        ("se:hidden_channels=none", SE()),
        ("ge:extent=0,learned_gather=no,reduction=none", GE(extent=0, learned_gather=False, reduction=None)),
        ("eca:kernel_size=5", ECA(kernel_size=5)),
        ("cbam:bias=1", CBAM(bias=True)),
        ("coord:reduction=16,bias=no", Coord(reduction=16, bias=False)),
        ("channel:squeeze=mean-std,excitation=conv,shift=yes", Channel("mean-std", "conv", shift=True)),
        *((kind, spec()) for kind, spec in ATTENTIONS.items()),
    ],
    ids=repr,
)
def test_command_line(text, spec):
    assert parse(text) == spec


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", UnknownNameError, "unknown attention ''; known: bam"),
        ("sse2", UnknownNameError, "did you mean 'sse'"),
        ("SE", UnknownNameError, "unknown attention 'SE'"),
        ("non", UnknownNameError, "did you mean 'none'"),
        ("none:reduction=2", ValueError, "'none' takes no options"),
        ("se:redution=8", UnknownNameError, "unknown option of 'se' 'redution'; did you mean 'reduction'"),
        ("eca:reduction=8", UnknownNameError, "unknown option of 'eca' 'reduction'"),
        ("se:kind=eca", UnknownNameError, "unknown option of 'se' 'kind'"),
        ("se:reduction=eight", ValueError, "reduction of 'se': 'eight' is not a whole number"),
        ("se:reduction=-1", ValueError, "reduction of 'se': -1 is out of range"),
        ("se:bias=perhaps", ValueError, "bias of 'se': 'perhaps' is not true or false"),
        ("se:reduction", ValueError, "'reduction' in 'se:reduction' is not of the form name=value"),
        ("se:", ValueError, "not of the form name=value"),
        ("se:reduction=8,", ValueError, "not of the form name=value"),
        ("se:reduction=8,reduction=4", ValueError, "'reduction' is given twice"),
        ("se:gate=sigmod", UnknownNameError, "unknown gate of 'se' 'sigmod'; did you mean 'sigmoid'"),
        ("channel:squeeze=none", UnknownNameError, "unknown squeeze of 'channel' 'none'"),
        ("simam:init=identity", UnknownNameError, "unknown option of 'simam' 'init'"),
        ("ge:extent=3", UnknownNameError, "unknown extent of 'ge' '3'; known: 0, 2, 4, 8"),
    ],
    ids=repr,
)
def test_command_line_refuses(text, error, message):
    with pytest.raises(error, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("description", "error", "message"),
    [
        ({}, ValueError, "attention without a 'kind'"),
        ({"kind": "see"}, UnknownNameError, "unknown attention 'see'; did you mean 'se'"),
        ({"kind": ["se"]}, UnknownNameError, "unknown attention"),
        ({"kind": "se", "reducton": 8}, UnknownNameError, "did you mean 'reduction'"),
        ({"kind": "se", "reduction": "8"}, ValueError, "reduction of 'se': '8' is not a whole number"),
        ({"kind": "se", "reduction": True}, ValueError, "reduction of 'se': True is not a whole number"),
        ({"kind": "se", "reduction": None}, ValueError, "reduction of 'se': None is not a whole number"),
        ({"kind": "se", "hidden_channels": 0}, ValueError, "hidden_channels of 'se': 0 is out of range"),
        ({"kind": "se", "bias": 1}, ValueError, "bias of 'se': 1 is not true or false"),
        ({"kind": "scse", "combine": "mul"}, UnknownNameError, "unknown combine of 'scse' 'mul'"),
    ],
    ids=repr,
)
def test_mapping_refuses(description, error, message):
    with pytest.raises(error, match=message):
        from_dict(description)


def test_mapping_may_leave_fields_out():
    assert from_dict({"kind": "se", "reduction": 8}) == SE(reduction=8)


def test_check_sees_what_depends_on_the_channels():
    SK(groups=4).check(64)
    with pytest.raises(ValueError, match="groups=4 doesn't divide channels=66"):
        SK(groups=4).check(66)
    with pytest.raises(ValueError, match="kernel_size=4 must be odd"):
        ECA(kernel_size=4).check(64)
