"""Layer by layer, our networks are the authors' released definitions."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import senet
from senet.nn import SqueezeExcite

LAYERS = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "authors_layers.json"

AUTHORS = {
    "se_resnet50": "SE-ResNet-50",
    "se_resnet101": "SE-ResNet-101",
    "se_resnet152": "SE-ResNet-152",
    "se_resnext50_32x4d": "SE-ResNeXt-50",
    "se_resnext101_32x4d": "SE-ResNeXt-101",
    "senet154": "SENet-154",
}


@cache
def _definition(name: str) -> list[dict[str, Any]]:
    if not LAYERS.exists():
        pytest.skip(f"{LAYERS.name} is not in {LAYERS.parent}")
    return json.loads(LAYERS.read_text())[AUTHORS[name]]


@cache
def _sizes(name: str) -> tuple[nn.Module, dict[str, tuple[int, int]]]:
    """The network on the meta device, and the map size that goes into and comes out of each layer at 224 pixels."""
    model = senet.create_model(name, device="meta").eval()
    sizes: dict[str, tuple[int, int]] = {}
    for path, module in model.named_modules():
        module.register_forward_hook(
            lambda _, args, out, path=path: sizes.__setitem__(path, (args[0].shape[-1], out.shape[-1]))
        )
    model(torch.empty(1, 3, 224, 224, device="meta"))
    return model, sizes


@pytest.mark.parametrize("name", AUTHORS)
def test_convolutions(name: str) -> None:
    model, sizes = _sizes(name)
    ours = [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0], m.groups, m.bias is not None)
        + sizes[path]
        for path, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    theirs = [
        (layer["in_shapes"][0][1], layer["num_output"], layer["kernel"][0], layer["stride"][0], layer["pad"][0],
         layer["group"], layer["bias"], layer["in_shapes"][0][3], layer["out_shape"][3])
        for layer in _definition(name)
        if layer["type"] == "Convolution" and "role" not in layer
    ]  # fmt: skip
    assert ours == theirs


@pytest.mark.parametrize("name", AUTHORS)
def test_excitations(name: str) -> None:
    model, _ = _sizes(name)
    ours = [
        (fc.in_features, fc.out_features, fc.bias is not None)
        for block in model.modules()
        if isinstance(block, SqueezeExcite)
        for fc in (block.fc1, block.fc2)
    ]
    theirs = [
        (layer["in_shapes"][0][1], layer["num_output"], layer["bias"]) for layer in _definition(name) if "role" in layer
    ]
    assert ours == theirs


@pytest.mark.parametrize("name", AUTHORS)
def test_pools_norms_and_classifier(name: str) -> None:
    model, sizes = _sizes(name)
    layers = _definition(name)
    (path, pool), *others = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.MaxPool2d)]
    stem, *squeezes, last = [layer for layer in layers if layer["type"] == "Pooling"]
    assert not others
    assert stem["pool"] == "MAX"
    assert (stem["kernel"][0], stem["stride"][0], stem["pad"][0], stem["round_mode"] == "CEIL") == (
        pool.kernel_size, pool.stride, pool.padding, pool.ceil_mode,
    )  # fmt: skip
    assert sizes[path] == (stem["in_shapes"][0][3], stem["out_shape"][3])
    assert all(layer["pool"] == "AVE" and layer["global_pooling"] for layer in squeezes)
    assert len(squeezes) == sum(isinstance(m, SqueezeExcite) for m in model.modules())
    # Average over a 7x7 map by a 7x7 window: the global mean of our head.
    assert last["pool"] == "AVE"
    assert last["kernel"][0] == last["in_shapes"][0][3] == sizes["head"][0] == 7
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    theirs = [layer for layer in layers if layer["type"] == "BatchNorm"]
    assert [(n.num_features, n.eps) for n in norms] == [(t["out_shape"][1], t["eps"]) for t in theirs]
    [classifier] = [layer for layer in layers if layer["type"] == "InnerProduct"]
    assert list(model.head.fc.weight.shape) == classifier["param_shapes"][0]
    kinds = Counter(layer["type"] for layer in layers)
    assert (model.head.dropout.p > 0) == ("Dropout" in kinds)
