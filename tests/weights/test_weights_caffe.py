"""The authors' files, read without Caffe."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from caffe_writer import blob, caffemodel, field, layer, made_up, varint
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import deviation, pictures, shared

import senet
from senet.errors import CheckpointError
from senet.weights import load_weights, read_tensors

NAMES = {
    "SE-ResNet-50": "se_resnet50",
    "SE-ResNet-101": "se_resnet101",
    "SE-ResNet-152": "se_resnet152",
    "SE-ResNeXt-50": "se_resnext50_32x4d",
    "SE-ResNeXt-101": "se_resnext101_32x4d",
    "SENet-154": "senet154",
    "SE-BN-Inception": "se_bn_inception",
}
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "x.caffemodel"
        path.write_bytes(content)
        return path

    return write


def _definitions() -> dict[str, list[dict]]:
    return json.loads(shared("reference/authors_layers.json").read_text())


@pytest.mark.parametrize(("theirs", "ours"), NAMES.items())
def test_the_authors_layers_are_our_weights(theirs: str, ours: str) -> None:
    tensors = {}
    for entry in _definitions()[theirs]:
        shapes = [torch.empty(s, device="meta") for s in entry["param_shapes"]]
        names = ("running_mean", "running_var") if entry["type"] == "BatchNorm" else ("weight", "bias")
        tensors |= {f"{entry['name']}.{n}": t for n, t in zip(names, shapes, strict=False)}
    model = senet.create_model(ours, device="meta")
    report = load_weights(model, tensors)
    assert report.layout == "caffe"
    assert report.loaded == len(tensors) == sum(not key.endswith("tracked") for key in model.state_dict())


def test_the_authors_se_bn_inception_gives_its_golden_logits() -> None:
    file = shared("reference/caffe/se_bn_inception.caffemodel")
    golden = np.load(shared("reference/caffe/se_bn_inception_golden.npz"))
    images = torch.from_numpy(golden["image"])
    [key] = [key for key in golden.files if key != "image"]
    want = torch.from_numpy(golden[key]).double()
    model = senet.create_model("se_bn_inception").eval()
    assert load_weights(model, file).layout == "caffe"
    with torch.inference_mode():
        single = (model(images.float()).double() - want).abs().max() / want.std()
    model = senet.create_model("se_bn_inception").double().eval()
    load_weights(model, file)
    with torch.inference_mode():
        double = (model(images.double()) - want).abs().max() / want.abs().max()
    assert single < 1e-4
    assert double < 1e-9


def test_a_written_se_resnet50_is_what_cadenes_port_computes(written: Callable[[bytes], Path]) -> None:
    """The same weights through the authors' names into ours, and through the port's names into timm's network."""
    timm = pytest.importorskip("timm")
    made = made_up(_definitions()["SE-ResNet-50"])
    model = senet.create_model("se_resnet50", device="meta").eval()
    report = load_weights(model, written(caffemodel(made)))
    assert report.loaded == 331
    blobs = {name: arrays for name, _, arrays in made}
    _, variance, factor = blobs["conv3_2_3x3/bn"]
    divided = torch.from_numpy(variance.astype(float) / factor[0]).float()
    assert torch.equal(model.stages["3"][1].branch.bn2.running_var, divided)
    peer = timm.create_model("legacy_seresnet50").eval()
    peer.load_state_dict(_for_cadene(blobs), strict=True)
    assert deviation(model, peer, pictures(2, (64, 64))) < 1e-4


def _for_cadene(blobs: dict[str, list[np.ndarray]]) -> dict[str, torch.Tensor]:
    """Cadene's names, by a renaming of its own."""
    pieces = {"1x1_reduce": "1", "3x3": "2", "1x1_increase": "3"}
    found = {}
    for name, arrays in blobs.items():
        head, _, tail = name.partition("/")
        if head == "conv1":
            conv, norm, tail = "layer0.conv1", "layer0.bn1", tail.removeprefix("7x7_s2").lstrip("/")
        elif head == "classifier":
            conv = norm = "last_linear"
        else:
            stage, unit, piece = head.removeprefix("conv").split("_", 2)
            unit_name = f"layer{int(stage) - 1}.{int(unit) - 1}."
            if piece in pieces:
                conv, norm = (f"{unit_name}{kind}{pieces[piece]}" for kind in ("conv", "bn"))
            elif piece == "1x1_proj":
                conv, norm = unit_name + "downsample.0", unit_name + "downsample.1"
            else:
                conv = norm = f"{unit_name}se_module.fc{1 if piece == '1x1_down' else 2}"
        if tail == "bn":
            values = [a.astype(float) / arrays[2][0] for a in arrays[:2]]
            found |= dict(zip((f"{norm}.running_mean", f"{norm}.running_var"), values, strict=True))
        elif tail == "bn/scale":
            found |= dict(zip((f"{norm}.weight", f"{norm}.bias"), arrays, strict=True))
        else:
            found |= dict(zip((f"{conv}.weight", f"{conv}.bias"), arrays, strict=False))
    return {key: torch.as_tensor(value, dtype=torch.float32) for key, value in found.items()}


@pytest.mark.parametrize("form", [{}, {"doubles": True}, {"old_shape": True}, {"packed": False}], ids=str)
def test_blobs_in_all_spellings(written: Callable[[bytes], Path], form: dict[str, bool]) -> None:
    tensors = read_tensors(written(layer("c", "Convolution", [blob(WEIGHT, **form)])))
    assert torch.equal(tensors["c.weight"].float(), torch.from_numpy(WEIGHT))


def test_a_factor_of_zero_means_zero(written: Callable[[bytes], Path]) -> None:
    ones = np.ones(3, np.float32)
    tensors = read_tensors(written(caffemodel([("n", "BatchNorm", [ones, ones, np.zeros(1)])])))
    assert not tensors["n.running_mean"].any()
    assert not tensors["n.running_var"].any()


CONV = layer("c", "Convolution", [blob(WEIGHT)])
BROKEN = {
    "empty": (b"", "can't be read"),
    "no layers": (field(1, b"name"), "no layer with weights"),
    "text": (b"name: 'x' layer {", "not a complete"),
    "cut": (CONV[:-3], "not a complete"),
    "old format": (field(2, b"\x0a\x01x"), "before 2014"),
    "unknown layer": (layer("p", "PReLU", [blob(WEIGHT)]), "layer p is a PReLU"),
    "twice": (CONV + CONV, "two layers are called c"),
    "too many blobs": (layer("c", "Convolution", [blob(WEIGHT)] * 3), "Convolution with 3 blobs"),
    "norm of two": (layer("n", "BatchNorm", [blob(WEIGHT)] * 2), "BatchNorm with 2 blobs"),
    "long factor": (layer("n", "BatchNorm", [blob(WEIGHT)] * 3), "factor of 6 values"),
    "infinite factor": (layer("n", "BatchNorm", [blob(WEIGHT), blob(WEIGHT), blob(np.array([np.inf]))]), "non-finite"),
    "not finite": (layer("c", "Convolution", [blob(WEIGHT * np.nan)]), "c.weight has non-finite"),
    "no matrix": (layer("i", "InnerProduct", [blob(WEIGHT[0, :, 0, 0])]), "matrix of shape"),
    "shape lies": (layer("c", "Convolution", [field(7, field(1, varint(2**62))) + field(5, b"\0" * 8)]), "2 values"),
    "empty blob": (layer("c", "Convolution", [field(7, field(1, varint(0)))]), "0 values"),
    "odd bytes": (layer("c", "Convolution", [field(5, b"\0" * 7)]), "not a whole number"),
    "endless number": (b"\xff" * 12, "ten bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_told(written: Callable[[bytes], Path], case: str) -> None:
    content, message = BROKEN[case]
    with pytest.raises(CheckpointError, match=message):
        read_tensors(written(content))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_never_worse(data: st.DataObject, tmp_path: Path) -> None:
    ones = np.ones(2, np.float32)
    whole = bytearray(caffemodel([("c", "Convolution", [WEIGHT]), ("n", "BatchNorm", [ones, ones, ones[:1]])]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.caffemodel"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with suppress(CheckpointError):
        assert all(t.numel() < 100 for t in read_tensors(path).values())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_noise_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        read_tensors(path)
