"""Checkpoints: what is written is read back, and what was damaged is told."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import senet
from senet.errors import CheckpointError
from senet.preprocessing import CIFAR, IMAGENET_CAFFE
from senet.weights import CheckpointMetadata, DataRecord, read_checkpoint, write_checkpoint
from senet.weights.files import new_file_mode, sha256, write_atomically

OPTIONS = {"depth": 1, "attention": senet.SE(reduction=8).to_dict(), "stages": [2, 3]}
DESCRIPTION = CheckpointMetadata(
    model="cifar_resnet20",
    options=OPTIONS,
    classes=("кошка", "dog", "a bird"),
    preprocessing=CIFAR,
    metrics={"top1": 0.75},
    training={"epoch": 3, "recipe": "cifar"},
)


def _network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return senet.create_model("cifar_resnet20", **{"num_classes": 3} | OPTIONS | options)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "best.safetensors"
    write_checkpoint(path, _network().state_dict(), DESCRIPTION)
    return path


def _rewrite(path: Path, **changes: Any) -> None:
    file = path.with_suffix(".json")
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}), encoding="utf-8")


def test_round_trip(written: Path) -> None:
    for path in (written, written.with_suffix(".json"), written.parent):
        tensors, description = read_checkpoint(path)
        assert description == DESCRIPTION
        own = _network().state_dict()
        assert tensors.keys() == own.keys()
        assert all(torch.equal(tensors[key], own[key]) for key in own)


def test_the_description_is_for_people_too(written: Path) -> None:
    text = written.with_suffix(".json").read_text(encoding="utf-8")
    assert "кошка" in text
    assert json.loads(text)["format"] == 1
    assert json.loads(text)["sha256"] == sha256(written)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_every_kind_of_tensor(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.arange(6).view(2, 3).to(dtype), "scalar": torch.tensor(1).to(dtype), "none": torch.empty(0)}
    tensors["last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors["turned"] = torch.arange(6.0).view(2, 3).t()
    write_checkpoint(tmp_path / "x.safetensors", tensors, DESCRIPTION)
    read, _ = read_checkpoint(tmp_path / "x.safetensors")
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)


def test_tied_weights(tmp_path: Path) -> None:
    """A user's network may use one weight twice; each of its keys gets its own copy in the file."""
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    write_checkpoint(tmp_path / "x.safetensors", tied.state_dict(), DESCRIPTION)
    read, _ = read_checkpoint(tmp_path / "x.safetensors")
    assert all(torch.equal(read[key], value) for key, value in tied.state_dict().items())
    tied.load_state_dict(read)


def test_a_second_checkpoint_replaces_the_first(written: Path) -> None:
    write_checkpoint(written, {"w": torch.ones(1)}, replace(DESCRIPTION, metrics={"top1": 0.8}))
    tensors, description = read_checkpoint(written)
    assert list(tensors) == ["w"]
    assert description.metrics == {"top1": 0.8}
    assert sorted(p.name for p in written.parent.iterdir()) == ["best.json", "best.safetensors"]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _another_run(path: Path) -> None:
    write_checkpoint(path.with_name("other.safetensors"), _network(depth=2).state_dict(), DESCRIPTION)
    path.with_name("other.json").replace(path.with_suffix(".json"))


def _garbage_with_its_hash(path: Path) -> None:
    path.write_bytes(b"garbage" * 50)
    _rewrite(path, sha256=sha256(path))


def _not_a_number(path: Path) -> None:
    tensors = {"a": torch.ones(2), "b.weight": torch.tensor([1.0, float("nan")])}
    write_checkpoint(path, tensors, DESCRIPTION)


def _infinite(path: Path) -> None:
    write_checkpoint(path, {"b.weight": torch.tensor([1.0, float("inf")]).half()}, DESCRIPTION)


DAMAGES = [
    (_truncate, "its hash differs from the one in best.json"),
    (_alter, "its hash differs"),
    (_empty, "its hash differs"),
    (_another_run, "or from another run"),
    (_garbage_with_its_hash, "not a safetensors file"),
    (_not_a_number, "b.weight has non-finite values"),
    (_infinite, "b.weight has non-finite values"),
    (lambda path: path.unlink(), "no such file"),
    (lambda path: path.with_suffix(".json").unlink(), "its metadata file best.json is missing"),
    (lambda path: _rewrite(path, format=2), "format 2, this release reads 1; upgrade senet"),
    (lambda path: _rewrite(path, format=...), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, classes=...), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, classes=None), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, classes="dog"), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, classes=[1, 2, 3]), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, model=5), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, model=...), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, options=["depth"]), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, preprocessing=None), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, preprocessing={"size": [0, 0]}), "invalid checkpoint metadata"),
    (lambda path: _rewrite(path, surprise=1), "invalid checkpoint metadata"),
    *(
        (lambda path, text=text: path.with_suffix(".json").write_bytes(text), "invalid checkpoint metadata")
        for text in (b"", b"{", b"[]", b"[1]", b"3", b"null", b'"text"', b"\xff\xfe\x00", b"{}")
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_damage_is_told(damage: Any, message: str, written: Path) -> None:
    damage(written)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(written)
    assert "best" in str(caught.value)
    with pytest.raises(CheckpointError, match=message):
        senet.load_model(written)


def test_other_files_are_not_opened(tmp_path: Path) -> None:
    pickled = tmp_path / "model.pt"
    torch.save({"a": 1}, pickled)
    with pytest.raises(CheckpointError, match=r"a checkpoint is a .safetensors file"):
        read_checkpoint(pickled)
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such file"):
        read_checkpoint(tmp_path / "absent.json")


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half of the n")
        assert temporary.parent == tmp_path
        raise OSError("disk full")

    for target in (path, tmp_path / "new.json"):
        with pytest.raises(OSError, match="disk full"):
            write_atomically(target, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_checkpoint_leaves_the_old_one(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: dict[str, Tensor], path: Path, **_: Any) -> None:
        save_file(tensors, path)
        raise KeyboardInterrupt

    monkeypatch.setattr("senet.weights.checkpoint.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(written, {"w": torch.zeros(1)}, DESCRIPTION)
    assert len(list(written.parent.iterdir())) == 2
    assert read_checkpoint(written)[1] == DESCRIPTION


def test_a_new_file_is_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "ours", lambda temporary: temporary.write_text(""))
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "usual").st_mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_writing_changes_nothing_for_other_threads(mask: int, tmp_path: Path) -> None:
    """A process has one umask: who asks for it by setting it opens the files of other threads for everybody."""
    modes: set[int] = set()

    def predict_dense(frame: Any, event: str, function: Any) -> None:
        """What another thread would meet if it got its turn now: after any call of the standard library."""
        if event == "c_return":
            sys.setprofile(None)
            handle = os.open(tmp_path / "other", os.O_CREAT | os.O_EXCL, 0o666)
            modes.add(os.fstat(handle).st_mode & 0o777)
            os.close(handle)
            os.unlink(tmp_path / "other")
            sys.setprofile(predict_dense)

    before = os.umask(mask)
    try:
        sys.setprofile(predict_dense)
        write_atomically(tmp_path / "ours", lambda temporary: temporary.write_text(""))
        new_file_mode(tmp_path)
    finally:
        sys.setprofile(None)
        assert os.umask(before) == mask
    assert modes == {0o666 & ~mask}
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o666 & ~mask


def test_threads_write_side_by_side(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(100):
            pool.submit(write_atomically, tmp_path / f"{number % 5}", lambda temporary: temporary.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3", "4"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"whole"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {new_file_mode(tmp_path)}


def test_a_writer_that_puts_a_file_of_its_own_there(tmp_path: Path) -> None:
    def replace_it(temporary: Path) -> None:
        (tmp_path / "secret").touch(0o600)
        (tmp_path / "secret").replace(temporary)

    write_atomically(tmp_path / "ours", replace_it)
    assert (tmp_path / "ours").stat().st_mode & 0o777 == new_file_mode(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_load_model(written: Path) -> None:
    loaded = senet.load_model(written)
    model = _network().eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(images), model(images))
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.model.spec == model.spec
    assert loaded.classes == DESCRIPTION.classes
    assert loaded.preprocessing == CIFAR
    assert loaded.metadata == DESCRIPTION


def test_every_difference_of_a_spec_survives(tmp_path: Path) -> None:
    spec = senet.create_model("se_resnet18", depths=(1, 1), placement="identity", num_classes=2, dropout=0.5).spec
    base = senet.create_model("se_resnet18", device="meta").spec
    description = CheckpointMetadata(
        model="se_resnet18", options=spec.differences(base), classes=("a", "b"), preprocessing=IMAGENET_CAFFE
    )
    write_checkpoint(tmp_path / "best.safetensors", spec.build().state_dict(), description)
    assert senet.load_model(tmp_path).model.spec == spec


def test_a_misfit_names_the_key_and_both_shapes(written: Path) -> None:
    _rewrite(written, classes=["a", "b"])
    with pytest.raises(CheckpointError, match=r"head\.fc\.bias is \(3,\) in the file and \(2,\) in the network"):
        senet.load_model(written)
    _rewrite(written, classes=["a", "b", "c"], options=OPTIONS | {"depth": 2})
    with pytest.raises(CheckpointError, match=r"stages\.2\.1\..* is missing \(\d+ in total\)"):
        senet.load_model(written)
    plain = {key: value for key, value in OPTIONS.items() if key != "stages"} | {"attention": None}
    _rewrite(written, options=plain)
    with pytest.raises(CheckpointError, match=r"stages\.2\.0\.se\..* is unexpected \(8 in total\)"):
        senet.load_model(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "cifar_resnet21"}, "'cifar_resnet20'"),
        ({"options": {"dept": 1}}, "'depth'"),
        ({"options": {"name": "x"}}, "unknown option of cifar_resnet20 'name'"),
        ({"options": {"text": "x"}}, "unknown option of cifar_resnet20 'text'"),
        ({"options": {"device": "meta"}}, "unknown option of cifar_resnet20 'device'"),
        ({"options": {"depth": 0}}, "depth=0"),
        ({"options": {"attention": {"kind": "sea"}}}, "'se'"),
        ({"options": {"attention": {"reduction": 4}}}, "kind"),
        ({"options": {"depth": "1"}}, "depth"),
    ],
)
def test_a_description_of_no_network(written: Path, change: dict[str, Any], message: str) -> None:
    _rewrite(written, **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        senet.load_model(written)
    assert str(written) in str(caught.value)


OWN_NETWORK = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("imported").touch()


def tiny(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))
"""


def test_a_checkpoint_does_not_choose_the_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_network_of_a_checkpoint.py").write_text(OWN_NETWORK)
    name = "own_network_of_a_checkpoint:tiny"
    weights = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).state_dict()
    write_checkpoint(tmp_path / "best.safetensors", weights, replace(DESCRIPTION, model=name, options={}))
    with pytest.raises(CheckpointError, match=f"use --model {name} if you trust this code"):
        senet.load_model(tmp_path)
    assert not Path("imported").exists()
    loaded = senet.load_model(tmp_path, factory=name)
    assert Path("imported").exists()
    assert loaded.model(torch.ones(1, 3, 2, 2)).shape == (1, 3)


RECORD = DataRecord(
    name="folder:/data/flowers",
    val_fraction=0.2,
    split_seed=0,
    digest="ab" * 32,
    train=2,
    val=1,
    sample=("0123456789abcdef" * 2, "fedcba9876543210" * 2),
)


FOLD = replace(RECORD, folds=5, fold=2, group="patient")


@pytest.mark.parametrize("record", [RECORD, replace(RECORD, val_fraction=None, split_seed=None, sample=()), FOLD])
def test_the_data_is_recorded(tmp_path: Path, record: DataRecord) -> None:
    write_checkpoint(tmp_path / "x.safetensors", {"w": torch.ones(1)}, replace(DESCRIPTION, data=record))
    assert read_checkpoint(tmp_path / "x.safetensors")[1].data == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 1.0}, "train=1.0 must be a whole number"),
        ({"val": -1}, "val=-1 must be a whole number"),
        ({"val_fraction": 1.5}, "val_fraction=1.5 must lie between 0 and 1"),
        ({"val_fraction": None}, "val_fraction and split_seed belong together"),
        ({"held_out": 1}, "held_out=1 must be true or false"),
        ({"split_seed": True}, "split_seed=True must be a whole number"),
        ({"digest": "zz"}, "digest 64 hexadecimal digits"),
        ({"name": 3}, "name must be text"),
        ({"sample": ["x"]}, "32 hexadecimal digits each"),
        ({"sample": list(reversed(RECORD.sample))}, "sample must be ascending"),
        ({"folds": 5}, "fold=0 must lie in 1..folds=5"),
        ({"fold": 2}, "fold=2 must lie in 1..folds=0"),
        ({"group": 3}, "group must be text"),
        ({"more": 1}, "data must be an object of name, "),
    ],
)
def test_a_record_of_data_is_read_strictly(written: Path, change: dict[str, Any], message: str) -> None:
    _rewrite(written, data=RECORD.to_dict() | change)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(written)
