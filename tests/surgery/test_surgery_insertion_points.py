"""`apply_insertion_points`: all sites, or none."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from user_networks import (
    IMAGES,
    WIDTH,
    Residuals,
    gates,
)

import senet
from senet.surgery import apply_insertion_points

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"attention": {"kind": "nope"}}, "nope"),
    "option": ({"attention": {"kind": "se", "size": 3}}, "size"),
    "path": ({"path": "blocks.9"}, "no module 'blocks.9'"),
    "container": ({"path": "blocks"}, "takes no child"),
    "side": ({"side": "middle"}, "must be 'input' or 'output'"),
    "channels": ({"channels": 99}, "has 32 channels, not 99"),
    "narrow": ({"channels": 8, "path": "blocks.1"}, "no hidden unit"),
    "dimensions": ({"space": (4, 4, 4, 4)}, "ndim"),
    "twice": ({"path": "blocks.0.norm2", "channels": WIDTH}, "blocks.0.norm2 is listed twice"),
    "old name": ({"path": "_orig_mod.blocks.0.norm2", "channels": WIDTH}, "blocks.0.norm2 is listed twice"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_sites_are_applied_all_or_none(kind: str) -> None:
    change, message = WRONG[kind]
    model = Residuals()
    first, second = senet.plan(model, example_inputs=IMAGES).inserted
    keys, seed = list(model.state_dict()), torch.get_rng_state()
    with pytest.raises(senet.SenetError, match=message):
        apply_insertion_points(model, [first, dataclasses.replace(second, **change)])
    assert list(model.state_dict()) == keys
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), seed)
    apply_insertion_points(model, [first, second])
    with pytest.raises(senet.SenetError, match="already has a submodule or attribute 'attention'"):
        apply_insertion_points(model, [second])


def test_sites_are_taken_back_if_a_module_refuses_its_layer() -> None:
    class Closed(nn.BatchNorm2d):
        def add_module(self, name: str, module: nn.Module | None) -> None:
            raise RuntimeError("closed")

    model = Residuals()
    sites = senet.plan(model, example_inputs=IMAGES).inserted
    model.blocks[1].norm2 = Closed(2 * WIDTH)
    with pytest.raises(RuntimeError, match="closed"):
        apply_insertion_points(model, sites)
    assert not gates(model)
    assert not any(module._forward_hooks for module in model.modules())
