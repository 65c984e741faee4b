"""Odd files and descriptions: one clear line, whatever stands in them."""

from __future__ import annotations

import json
import math
import pickle
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import senet
from senet.cli import main
from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.preprocessing import CIFAR, IMAGENET, Preprocessing
from senet.weights import LAYOUTS, CheckpointMetadata, load_weights, read_checkpoint, read_tensors, write_checkpoint
from senet.weights.files import sha256
from senet.weights.strict_json import parse_object

DESCRIPTION = CheckpointMetadata(
    model="cifar_resnet20", options={"depth": 1}, classes=("a", "b", "c"), preprocessing=CIFAR, metrics={"top1": 0.5}
)


def network(**options: Any) -> nn.Module:
    return senet.create_model("cifar_resnet20", **{"depth": 1, "num_classes": 3} | options)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    write_checkpoint(path, network().state_dict(), DESCRIPTION)
    return path


def rewrite(path: Path, **changes: Any) -> None:
    file = path.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def refused(path: Path, read: Any = senet.load_model) -> str:
    """The one line with which a file is refused; it names the file."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert path.stem in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def attempt(read: Any, *arguments: Any) -> tuple[Any, str]:
    """What reading gives, and the message of a refusal (empty if there is none)."""
    try:
        return read(*arguments), ""
    except SenetError as error:
        return None, str(error)


# --- preprocessing ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NUMBERS = st.lists(st.floats() | st.integers() | JSON, max_size=5)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.lists(st.integers(-1, 70_000), max_size=3) | JSON,
        "crop_fraction": st.floats(0, 1) | JSON,
        "interpolation": st.sampled_from(["bilinear", "bicubic"]) | JSON,
        "mean": NUMBERS | st.lists(st.floats(), min_size=3, max_size=3) | JSON,
        "std": NUMBERS | st.lists(st.floats(0), min_size=3, max_size=3) | JSON,
        "channel_order": st.sampled_from(["RGB", "BGR", "L", "other"]) | JSON,
        "value_range": st.floats(0) | JSON,
        "surprise": JSON,
    },
)


@given(FIELDS | JSON)
def test_any_preprocessing_either_reads_or_is_refused(values: Any) -> None:
    found, message = attempt(Preprocessing.from_dict, values)
    if found is None:
        assert message
        assert "\n" not in message
        return
    assert Preprocessing.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    mean, std = torch.tensor(found.mean), torch.tensor(found.std)
    assert len(mean) == found.in_channels
    for pixel in (0.0, found.value_range):
        assert ((pixel - mean) / std).isfinite().all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"std": [0, 0, 0]}, "must be positive"),
        ({"std": [0.2, -0.2, 0.2]}, "must be positive"),
        ({"std": [1e-50, 1, 1]}, "must be positive"),  # zero in float32
        ({"std": [0.2, 0.2]}, "std 2 values"),
        ({"mean": []}, "mean has 0"),
        ({"mean": 0.5}, "mean=0.5 must be a list of numbers"),
        ({"mean": ["0.5"] * 3}, "mean: '0.5' is not a number"),
        ({"mean": [True, 0.5, 0.5]}, "mean: True is not a number"),
        ({"mean": [1e38, 0, 0], "std": [1e-3, 1, 1]}, "overflow float32"),
        ({"value_range": 10**400}, "value_range: 1000"),
        ({"value_range": math.nan}, "must be finite"),
        ({"value_range": 0}, "must be positive"),
        ({"size": [0, 224]}, "both at least 1"),
        ({"size": 224}, "size=224 must be a list"),
        ({"size": [224]}, "must be (height, width)"),
        ({"size": [224.0, 224]}, "size: 224.0 is not a whole number"),
        ({"size": [10**9, 224]}, "over 65,535 pixels"),
        ({"crop_fraction": 1e-9}, "over 65,535 pixels"),
        ({"crop_fraction": 0}, "must lie in (0, 1]"),
        ({"interpolation": ["bilinear"]}, "interpolation=['bilinear']"),
        ({"channel_order": "GBR"}, "channel_order='GBR'"),
        ({"channel_order": None}, "channel_order=None"),
        ({"channel_order": "other", "mean": [], "std": []}, "as many of each"),
        ({"channel_order": "other"}, None),
        ({"means": [0, 0, 0]}, "did you mean 'mean'"),
        ([], "must be a dictionary"),
        (None, "must be a dictionary"),
    ],
)  # fmt: skip
def test_preprocessing_of_another_kind_is_told(values: Any, message: str | None) -> None:
    if message is None:
        assert Preprocessing.from_dict(values).in_channels == 3
        return
    with pytest.raises(SenetError) as caught:
        Preprocessing.from_dict(values)
    assert message in str(caught.value)


def test_numbers_of_any_library_become_plain_ones() -> None:
    np = pytest.importorskip("numpy")
    made = Preprocessing(size=[np.int64(8), 9], mean=list(np.float32([0.5, 0.25, 1])), std=(1, 1, 1))
    assert made == Preprocessing(size=(8, 9), mean=(0.5, 0.25, 1.0), std=(1.0, 1.0, 1.0))
    assert json.dumps(made.to_dict())
    hash(made)


def test_the_default_of_other_channel_counts() -> None:
    grey = IMAGENET.with_channels(1)
    assert (grey.channel_order, grey.in_channels) == ("L", 1)
    assert grey.mean == (pytest.approx(sum(IMAGENET.mean) / 3),)
    many = IMAGENET.with_channels(5)
    assert (many.channel_order, many.in_channels) == ("other", 5)
    assert many.mean == (*IMAGENET.mean, *IMAGENET.mean[:2])
    assert many.std == (*IMAGENET.std, *IMAGENET.std[:2])
    assert grey.with_channels(3).channel_order == "RGB"
    assert IMAGENET.with_channels(3) is IMAGENET
    for wrong in (0, -1, 10**9):
        with pytest.raises(SenetError, match="in_channels="):
            IMAGENET.with_channels(wrong)


# --- descriptions -----------------------------------------------------------------------------------------------------

ODD_TEXTS = {
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep and whole": '{"a":' + "[" * 200 + "]" * 200 + "}",
    "a long number": '{"format": 1' + "0" * 10_000 + "}",
    "a constant": '{"format": 1, "sha256": "", "a": NaN}',
    "minus infinity": '{"a": -Infinity}',
    "an overflowing number": '{"a": 1e999}',
    "a key twice": '{"format": 1, "format": 1}',
    "a key twice below": '{"a": {"b": 1, "b": 1}}',
    "a lone surrogate": '{"a": "\\ud800"}',
    "a lone surrogate as key": '{"\\ud800": 1}',
    "a byte-order mark": "\ufeff{}",
    "two values": "{} {}",
    "a list": "[]",
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_odd_json_is_told(text: str, written: Path) -> None:
    written.with_suffix(".json").write_text(text, encoding="utf-8")
    assert "invalid checkpoint metadata" in refused(written)


def test_a_huge_description_is_not_read(written: Path) -> None:
    with written.with_suffix(".json").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    assert "are read" in refused(written)


@given(st.text() | JSON.map(json.dumps) | st.binary().map(lambda b: b.decode("latin1")))
def test_any_text_either_is_an_object_or_a_value_error(text: str) -> None:
    try:
        found = parse_object(text)
    except ValueError:
        return
    assert json.loads(json.dumps(found, allow_nan=False)) == found


ODD_OPTIONS = {
    "retrofit a number": ({"retrofit": 5}, "retrofit=5 must be a list"),
    "retrofit a text": ({"retrofit": "layer1"}, "must be a list"),
    "retrofit an object": ({"retrofit": {"path": "x"}}, "must be a list"),
    "retrofit of numbers": ({"retrofit": [1, 2]}, "must be a list"),
    "retrofit without path": ({"retrofit": [{}]}, "is not an insertion point"),
    "retrofit null": ({"retrofit": None}, "must be a list"),
    "unknown": ({"detph": 1}, "did you mean 'depth'"),
    "depth a text": ({"depth": "1"}, "depth="),
    "depth a list": ({"depth": [1]}, "depth="),
    "depth an object": ({"depth": {"a": 1}}, "depth="),
    "depth true": ({"depth": True}, "depth="),
    "depth null": ({"depth": None}, "depth="),
    "classes without end": ({"num_classes": 10**10}, "head.fc"),
    "channels without end": ({"in_channels": 10**10}, "in_channels="),
    "attention a number": ({"attention": 5}, "attention=5"),
    "attention of odd kind": ({"attention": {"kind": [1]}}, "attention"),
    "attention of any width": (
        {"attention": {"kind": "se", "hidden_channels": 10**9}},
        "is missing|unexpected|is \\(",
    ),
    "stages": ({"stages": [99]}, "stage 99"),
    "stages a text": ({"stages": "all"}, "stages="),
    "preprocessing unknown field": ({"preprocessing": {"foo": 1}}, "field of preprocessing 'foo'"),
    "preprocessing std 0": ({"preprocessing": {"std": [0, 0, 0]}}, "must be positive"),
    "preprocessing a number": ({"preprocessing": 5}, "preprocessing=5"),
}


@pytest.mark.parametrize(("options", "message"), ODD_OPTIONS.values(), ids=ODD_OPTIONS.keys())
def test_odd_options_are_told(options: dict[str, Any], message: str, written: Path) -> None:
    rewrite(written, options={"depth": 1} | options)
    with pytest.raises(CheckpointError, match=message):
        senet.load_model(written)
    refused(written)


@pytest.mark.parametrize("key", ["format", "sha256", "model", "classes", "options", "metrics", "training", "task",
                                 "head", "preprocessing"])  # fmt: skip
@pytest.mark.parametrize("value", [None, True, 5, 1.0, "x\ny", ["a", 1], [], {"a": [1]}, {"a": None}], ids=repr)
def test_a_field_of_another_kind_is_told_or_harmless(key: str, value: Any, written: Path) -> None:
    rewrite(written, **{key: value})
    loaded, message = attempt(senet.load_model, written)
    assert "\n" not in message
    assert (str(written.parent) in message) == (loaded is None)
    assert loaded is None or key in ("options", "metrics", "training", "head", "task"), loaded.metadata


def test_a_metric_that_is_no_number_comes_back_as_none(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, network().state_dict(), replace(DESCRIPTION, metrics={"top1": 0.5, "map": math.nan}))
    assert json.loads(path.with_suffix(".json").read_text())["metrics"] == {"top1": 0.5, "map": None}
    found = read_checkpoint(path)[1].metrics
    assert found["top1"] == 0.5
    assert math.isnan(found["map"])


@pytest.mark.parametrize("training", [{"lr": math.inf}, {"a": {1}}, {"a": "\ud800"}], ids=repr)
def test_what_could_not_be_read_is_not_written(training: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be written"):
        write_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)}, replace(DESCRIPTION, training=training))
    assert not list(tmp_path.iterdir())


# --- tensors ----------------------------------------------------------------------------------------------------------


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def odd_state(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    state = dict(network().state_dict())
    return state | {key.replace("__", "."): value for key, value in changes.items()}


ODD_TENSORS = {
    "a bias of no dimension": odd_state(head__fc__bias=torch.tensor(1.0)),
    "a bias of one number": odd_state(head__fc__bias=torch.ones(1)),
    "a bias of two dimensions": odd_state(head__fc__bias=torch.ones(1, 3)),
    "a weight of one number": odd_state(stem__0__weight=torch.ones(1)),
    "a weight of one filter": odd_state(stem__0__weight=torch.ones(1, 3, 3, 3)),
    "a norm of one number": odd_state(stem__1__running_var=torch.ones(1)),
    "a counter of one dimension": odd_state(stem__1__num_batches_tracked=torch.ones(1, dtype=torch.int64)),
    "nothing": odd_state(head__fc__bias=torch.ones(0)),
    "whole numbers": odd_state(head__fc__bias=torch.ones(3, dtype=torch.int64)),
    "truth values": odd_state(head__fc__bias=torch.ones(3, dtype=torch.bool)),
    "complex numbers": odd_state(head__fc__bias=torch.ones(3, dtype=torch.complex64)),
    "a fractional counter": odd_state(stem__1__num_batches_tracked=torch.tensor(1.5)),
    "numbers too large": odd_state(head__fc__bias=torch.full((3,), 1e300, dtype=torch.float64)),
    "not a number in float8": odd_state(head__fc__bias=torch.full((3,), math.nan).to(torch.float8_e4m3fn)),
    "negative variances": odd_state(stem__1__running_var=torch.full((16,), -1.0)),
    "on the meta device": odd_state(head__fc__bias=torch.empty(3, device="meta")),
    "sparse": odd_state(head__fc__weight=torch.ones(3, 64).to_sparse()),
}


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize("state", ODD_TENSORS.values(), ids=ODD_TENSORS.keys())
def test_odd_tensors_are_told_and_change_nothing(state: dict[str, Any], transfer: bool, tmp_path: Path) -> None:
    model = network()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    if transfer and state["head.fc.bias"].shape in ((0,), (1,)):
        return  # as of another number of classes
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, state if transfer else saved(tmp_path / "x.pth", state), transfer=transfer)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", [n for n, s in ODD_TENSORS.items() if n not in ("on the meta device", "sparse")])
def test_odd_tensors_in_a_checkpoint_are_told(name: str, written: Path) -> None:
    write_checkpoint(written, ODD_TENSORS[name], DESCRIPTION)
    refused(written)


def test_a_folded_bias_has_the_shape_of_its_mean() -> None:
    model = senet.create_model("bn_inception", num_classes=3)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    table = next(t for t in LAYOUTS["pytorchcv"] if "BN-Inception" in t.title)
    theirs = table.translate(before, back=True).tensors
    key = "features.init_block.conv1.conv.bias"
    whole = torch.ones(64, dtype=torch.int64)
    with pytest.raises(CheckpointError, match=r"is torch\.int64 in the file"):
        load_weights(model, theirs | {key: whole}, layout="pytorchcv")
    for bias in (torch.ones(1), torch.tensor(1.0), torch.ones(64, 1)):
        with pytest.raises(CheckpointError, match=f"{key} is .* in the file and \\(64,\\) in the network"):
            load_weights(model, theirs | {key: bias}, layout="pytorchcv")
    without_mean = {k: v for k, v in theirs.items() if k != "features.init_block.conv1.bn.running_mean"}
    with pytest.raises(CheckpointError, match=f"{key} has no counterpart"):
        load_weights(model, without_mean | {key: torch.ones(64)}, layout="pytorchcv")
    assert all(torch.equal(before[k], tensor) for k, tensor in model.state_dict().items())
    load_weights(model, theirs | {key: torch.full((64,), 2.0)}, layout="pytorchcv")
    assert torch.equal(model.state_dict()["stem.0.1.running_mean"], before["stem.0.1.running_mean"] - 2)


@pytest.mark.parametrize(
    "endless",
    [
        torch.zeros(1).expand(10**13),
        torch.zeros(1, 1).expand(10**7, 10**7),
        torch.zeros(2 * 10**6).as_strided((10**6, 10**6), (1, 1)),
        torch.zeros(1).expand(64, 3, 10**6, 10**6),
        torch.full((1,), math.nan).expand(10**13),
    ],
    ids=["one number", "a matrix", "sliding windows", "a kernel", "not a number"],
)
@pytest.mark.parametrize("key", ["conv1.weight", "fc.bias", "stem.0.weight", "head.fc.weight", "anything"])
def test_a_tensor_that_claims_more_than_is_stored_costs_nothing(
    key: str, endless: torch.Tensor, tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.pth", {key: endless})
    assert path.stat().st_size < 10**7
    started = time.process_time()
    for read in (read_tensors, lambda source: load_weights(network(), source, transfer=True)):
        with pytest.raises(CheckpointError, match=r"claims .* numbers"):
            read(path)
    assert time.process_time() - started < 5  # seconds; to sum such a tensor up takes hours


def test_an_expanded_tensor_of_usual_size_loads(tmp_path: Path) -> None:
    state = odd_state(head__fc__bias=torch.ones(1).expand(3))
    model = network()
    load_weights(model, saved(tmp_path / "x.pth", state))
    assert torch.equal(model.state_dict()["head.fc.bias"], torch.ones(3))


def test_an_archive_that_unpacks_without_end_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * (1 << 27))
    assert "unpack to 134,217,728" in refused(path, read_tensors)


@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), legacy=st.booleans())
def test_a_damaged_pytorch_file_is_told_or_reads(
    place: int, byte: int, legacy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.pth"
    torch.save({"a": torch.ones(3), "b.c": torch.zeros(2, 2)}, path, _use_new_zipfile_serialization=not legacy)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content)
    found, message = attempt(read_tensors, path)
    assert (str(path) in message) == (found is None)


def test_pickles_of_other_things_are_told(tmp_path: Path) -> None:
    itself: dict[str, Any] = {}
    itself["state_dict"] = itself
    deep: Any = torch.ones(1)
    for _ in range(400):
        deep = {"model": deep}
    for name, content in {"itself": itself, "deep": deep, "number": 5, "list": [torch.ones(1)], "none": None,
                          "keys": {1: torch.ones(1)}, "line": {"a\nb": torch.ones(1)}}.items():  # fmt: skip
        refused(saved(tmp_path / f"{name}.pth", content), read_tensors)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": [1]}))
    refused(tmp_path / "plain.pkl", read_tensors)


@pytest.mark.parametrize("dtype", ["float8_e8m0fnu", "float4_e2m1fn_x2", "complex64"])
def test_types_that_are_no_plain_numbers_are_told(dtype: str, tmp_path: Path) -> None:
    kind = getattr(torch, dtype, None)
    if kind is None:
        pytest.skip(f"this PyTorch has no {dtype}")
    raw = torch.zeros(8, dtype=torch.uint8).view(kind)
    assert dtype in refused(saved(tmp_path / "x.pth", {"a": raw}), read_tensors)


def test_two_keys_for_one_weight_are_told() -> None:
    state = dict(network().state_dict())
    twice = state | {"_orig_mod.head.fc.bias": state["head.fc.bias"]}
    with pytest.raises(CheckpointError, match=r"_orig_mod\.head\.fc\.bias and head\.fc\.bias are two names for one"):
        load_weights(network(), twice)


def test_a_leftover_key_is_named() -> None:
    state = dict(network().state_dict())
    for transfer in (False, True):
        for extra in ("head.surprise", "aux.weight", "head.fc.scale"):
            with pytest.raises(CheckpointError, match=f"{extra} has no counterpart in the network"):
                load_weights(network(), state | {extra: torch.ones(1)}, transfer=transfer)


def test_paths_may_be_texts(written: Path) -> None:
    assert read_checkpoint(str(written))[1] == DESCRIPTION
    assert read_tensors(str(written)).keys() == network().state_dict().keys()


def test_what_is_no_source_is_told() -> None:
    for source in (5, None, [("a", torch.ones(1))]):
        with pytest.raises(SenetError, match="a path or a state dict"):
            load_weights(network(), source)
    with pytest.raises(SenetError, match=r"takes a network \(an nn\.Module\), got dict"):
        load_weights({}, {})


def test_unknown_preprocessing_fields_name_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'std'"):
        Preprocessing.from_dict({"stds": [1, 1, 1]})


def test_the_hash_is_checked_before_the_weights_are_read(written: Path) -> None:
    rewrite(written, sha256="0" * 64)
    assert "its hash differs" in refused(written)
    rewrite(written, sha256=sha256(written))
    senet.load_model(written)


@pytest.mark.parametrize("damage", [
    lambda path: path.with_suffix(".json").write_text("[" * 100_000),
    lambda path: rewrite(path, options={"retrofit": 5}),
    lambda path: rewrite(path, preprocessing={"std": [0, 0, 0]}),
    lambda path: write_checkpoint(path, ODD_TENSORS["a bias of no dimension"], DESCRIPTION),
], ids=["deep", "retrofit", "preprocessing", "bias"])  # fmt: skip
def test_commands_exit_with_2_and_one_line(damage: Any, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(written)
    assert main(["predict", "picture.jpg", "--checkpoint", str(written)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("senet predict: ")
    assert told.count("\n") == 1


def test_conversion_of_an_odd_file_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = saved(tmp_path / "x.pth", ODD_TENSORS["a bias of no dimension"]), tmp_path / "out.safetensors"
    given = ["convert", str(source), "--model", "cifar_resnet20", "--model-kwargs", "depth=1", "--num-classes", "3"]
    assert main([*given, "--out", str(out)]) == 2
    assert "head.fc.bias is () in the file and (3,) in the network" in capsys.readouterr().err
    assert not out.exists()
