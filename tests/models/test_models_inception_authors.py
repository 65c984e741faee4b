"""SE-BN-Inception is the authors' released definition: layer by layer, and in what it computes with their file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peers import FLOAT32_TOLERANCE, FLOAT64_TOLERANCE, shared
from torch import Tensor, nn

import senet
from senet.models import ConvNet
from senet.models.bn_inception import CutPool
from senet.models.inception import Concat
from senet.nn import SqueezeExcite

UNITS = {"3a": "3.0", "3b": "3.1", "3c": "4.0", "4a": "4.1", "4b": "4.2", "4c": "4.3", "4d": "4.4"} | {
    "4e": "5.0", "5a": "5.1", "5b": "5.2",
}  # fmt: skip
STEM = {"conv1/7x7_s2": "stem.0", "conv2/3x3_reduce": "stem.2", "conv2/3x3": "stem.3"}
INSIDE = {
    "1x1": "1x1.0",
    "3x3_reduce": "3x3.0",
    "3x3": "3x3.1",
    "double3x3_reduce": "double3x3.0",
    "double3x3a": "double3x3.1",
    "double3x3b": "double3x3.2",
    "pool_proj": "pool.1",
    "pool": "pool.0",
    "pool/3x3_s2": "pool.0",
}


def _ours(layer: str) -> str:
    """Our module's path for one of the authors' convolutions, pools or excitations."""
    if layer in STEM:
        return STEM[layer]
    if not layer.startswith("inception_"):
        return {"pool1/3x3_s2": "stem.1", "pool2/3x3_s2": "stem.4", "classifier": "head.fc"}[layer]
    unit = f"stages.{UNITS[layer[10:12]]}"
    if layer[12] == "_":
        return f"{unit}.se." + {"1x1_down": "fc1", "1x1_up": "fc2"}[layer[13:]]
    return f"{unit}.branches.{INSIDE[layer[13:]]}"


@cache
def _definition() -> list[dict[str, Any]]:
    return json.loads(shared("reference/authors_layers.json").read_text())["SE-BN-Inception"]


def _layers(kind: str) -> list[dict[str, Any]]:
    return [layer for layer in _definition() if layer["type"] == kind]


@cache
def _sizes() -> tuple[ConvNet, dict[str, tuple[list[int], list[int]]]]:
    """The network on the meta device; the shapes that go into and come out of each module at 224 pixels."""
    model = senet.create_model("se_bn_inception", device="meta").eval()
    sizes: dict[str, tuple[list[int], list[int]]] = {}
    for path, module in model.named_modules():
        module.register_forward_hook(
            lambda _, args, out, path=path: sizes.__setitem__(path, (list(args[0].shape), list(out.shape)))
        )
    model(torch.empty(1, 3, 224, 224, device="meta"))
    return model, sizes


def test_convolutions() -> None:
    model, sizes = _sizes()
    theirs = [layer for layer in _layers("Convolution") if "role" not in layer]
    for layer in theirs:
        path = f"{_ours(layer['name'])}.0"
        conv = model.get_submodule(path)
        assert isinstance(conv, nn.Conv2d)
        assert (list(conv.weight.shape), list(conv.stride), list(conv.padding), conv.groups, conv.bias is not None) == (
            layer["param_shapes"][0], layer["stride"], layer["pad"], layer["group"], layer["bias"],
        )  # fmt: skip
        assert sizes[path] == (layer["in_shapes"][0], layer["out_shape"]), path
    # In their order, so that `modules()` runs through the network as its file does.
    assert [f"{_ours(layer['name'])}.0" for layer in theirs] == [
        path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)
    ]


def test_norms_follow_each_convolution() -> None:
    model, _ = _sizes()
    theirs = {
        f"{_ours(layer['bottoms'][0])}.1": (layer["out_shape"][1], layer["eps"]) for layer in _layers("BatchNorm")
    }
    ours = {p: (m.num_features, m.eps) for p, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert ours == theirs


def test_pools() -> None:
    model, sizes = _sizes()
    *theirs, last = [layer for layer in _layers("Pooling") if not layer["global_pooling"]]
    assert len(theirs) == sum(isinstance(m, nn.MaxPool2d | nn.AvgPool2d | CutPool) for m in model.modules())
    for layer in theirs:
        path = _ours(layer["name"])
        pool = model.get_submodule(path)
        want = (layer["kernel"][0], layer["stride"][0], layer["pad"][0])
        assert sizes[path] == (layer["in_shapes"][0], layer["out_shape"]), path
        if isinstance(pool, CutPool):
            assert (layer["pool"], want, layer["round_mode"], pool.stride) == ("MAX", (3, 2, 0), "CEIL", 2)
            continue
        assert isinstance(pool, nn.AvgPool2d if layer["pool"] == "AVE" else nn.MaxPool2d), path
        assert (pool.kernel_size, pool.stride, pool.padding) == want, path
        assert pool.ceil_mode or want[1] == 1, path
        # Caffe divides by the window, its padding included.
        assert getattr(pool, "count_include_pad", True)
    assert last["pool"] == "AVE"
    assert last["kernel"][0] == last["in_shapes"][0][3] == sizes["head"][0][3] == 7


def test_concatenations_and_what_the_attention_scales() -> None:
    model, sizes = _sizes()
    concats = _layers("Concat")
    assert len(concats) == sum(isinstance(m, Concat) for m in model.modules()) == len(UNITS)
    for layer in concats:
        unit = f"stages.{UNITS[layer['name'][10:12]]}"
        branches = model.get_submodule(f"{unit}.branches")
        assert [_ours(bottom).split(".")[4] for bottom in layer["bottoms"]] == list(branches.keys())
        assert [sizes[f"{unit}.branches.{name}"][1] for name in branches] == layer["in_shapes"]
    scaled = [layer["bottoms"][0] for layer in _layers("Scale") if len(layer["bottoms"]) == 2]
    assert scaled == [layer["name"] for layer in concats]


def test_excitations() -> None:
    model, _ = _sizes()
    theirs = [layer for layer in _layers("Convolution") if "role" in layer]
    for layer in theirs:
        fc = model.get_submodule(_ours(layer["name"]))
        assert [*fc.weight.shape, 1, 1] == layer["param_shapes"][0]
        assert (fc.bias is not None) == layer["bias"] is True
    widths = [m.fc1.out_features for m in model.modules() if isinstance(m, SqueezeExcite)]
    assert widths == [16, 20, 36, 36, 36, 38, 38, 66, 64, 64]
    assert len(theirs) == 2 * len(widths)


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: an int, or the bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        length, position = {1: (8, position), 5: (4, position)}.get(key & 7) or _varint(message, position)
        if key & 7 == 0:
            yield key >> 3, length
            continue
        yield key >> 3, message[position : position + length]
        position += length


def _blob(message: memoryview) -> Tensor:
    """BlobProto: 5 are its floats, 7 its shape (field 1, packed or not), 1 to 4 the shape in old files."""
    shape: list[int] = []
    old: dict[int, int] = {}
    floats = np.empty(0, "<f4")
    for number, value in _fields(message):
        if number == 5:
            floats = np.frombuffer(value, "<f4")
        elif number == 7:
            for _, dims in _fields(value):
                position = 0
                while not isinstance(dims, int) and position < len(dims):
                    dim, position = _varint(dims, position)
                    shape.append(dim)
                shape += [dims] if isinstance(dims, int) else []
        elif number <= 4:
            old[number] = value
    return torch.tensor(floats).reshape(shape or [old[i] for i in range(1, 5)]).double()


def _read() -> dict[str, tuple[str, list[Tensor]]]:
    """NetParameter: 100 are its layers; of each 1 is the name, 2 the type, 7 are the blobs."""
    layers = {}
    whole = memoryview(shared("reference/caffe/se_bn_inception.caffemodel").read_bytes())
    for number, value in _fields(whole):
        if number == 100:
            fields = [*_fields(value)]
            [name], [kind] = ([bytes(v).decode() for n, v in fields if n == i] for i in (1, 2))
            layers[name] = (kind, [_blob(v) for n, v in fields if n == 7])
    return layers


def _state() -> dict[str, Tensor]:
    """The authors' blobs under our keys, in float64."""
    state: dict[str, Tensor] = {}
    for name, (kind, blobs) in _read().items():
        if not blobs:
            continue
        if kind == "BatchNorm":
            mean, variance, factor = blobs
            path = f"{_ours(name.removesuffix('/bn'))}.1"
            found = {"running_mean": mean / factor, "running_var": variance / factor}
        else:
            path = f"{_ours(name.removesuffix('/bn/scale'))}" + {"Scale": ".1", "Convolution": ".0"}.get(kind, "")
            if ".se." in path:
                path, blobs[0] = path.removesuffix(".0"), blobs[0].flatten(1)
            found = dict(zip(("weight", "bias"), blobs, strict=False))
        for key, tensor in found.items():
            assert f"{path}.{key}" not in state
            state[f"{path}.{key}"] = tensor.flatten() if key != "weight" or kind == "Scale" else tensor
    return state


@pytest.fixture(scope="module")
def released() -> ConvNet:
    """The network with the authors' file in it, in float64."""
    state = _state()
    model = senet.create_model("se_bn_inception", device="meta").double()
    counters = {k: torch.zeros((), dtype=torch.long) for k in model.state_dict() if k.endswith("num_batches_tracked")}
    model.load_state_dict(state | counters, strict=True, assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def rounded(released: ConvNet) -> ConvNet:
    """The same in float32."""
    return copy.deepcopy(released).float()


@pytest.fixture(scope="module")
def golden() -> tuple[Tensor, Tensor]:
    """Images in network blocks and the logits that the authors' definition gives in float64."""
    with np.load(shared("reference/caffe/se_bn_inception_golden.npz")) as file:
        return torch.from_numpy(file["image"]).double(), torch.from_numpy(file["classifier"]).double()


@torch.no_grad()
def test_the_golden_logits(
    released: ConvNet, golden: tuple[Tensor, Tensor], record_property: Callable[..., None]
) -> None:
    images, want = golden
    assert want.std(1).min() > 0.05 * want.abs().max()
    error = ((released(images) - want).abs().max() / want.abs().max()).item()
    record_property("float64", error)
    assert error < FLOAT64_TOLERANCE


@torch.no_grad()
def test_the_golden_logits_in_float32(
    rounded: ConvNet, golden: tuple[Tensor, Tensor], record_property: Callable[..., None]
) -> None:
    images, want = golden
    error = ((rounded(images.float()) - want).abs().max() / want.std()).item()
    record_property("float32", error)
    assert error < FLOAT32_TOLERANCE


WRONG = {
    "padding not counted": ("stages.3.0.branches.pool.0", nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    "5b averages": ("stages.5.2.branches.pool.0", nn.AvgPool2d(3, 1, 1)),
    "padded stem pool": ("stem.1", nn.MaxPool2d(3, 2, padding=1)),
    "padded 3c pool": ("stages.4.0.branches.pool.0", nn.MaxPool2d(3, 2, padding=1)),
    "no attention after 3a": ("stages.3.0.se", nn.Identity()),
    "no attention after 4e": ("stages.5.0.se", nn.Identity()),
    "no attention after 5b": ("stages.5.2.se", nn.Identity()),
}


@pytest.mark.parametrize("mistake", WRONG)
@torch.no_grad()
def test_the_golden_logits_see_a_mistake(rounded: ConvNet, golden: tuple[Tensor, Tensor], mistake: str) -> None:
    images, want = golden
    path, wrong = WRONG[mistake]
    right = rounded.get_submodule(path)
    rounded.set_submodule(path, wrong)
    try:
        got = rounded(images[:1].float())
    finally:
        rounded.set_submodule(path, right)
    assert (got - want[:1]).abs().max() > 10 * FLOAT32_TOLERANCE * want.std()
