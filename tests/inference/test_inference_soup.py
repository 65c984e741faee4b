"""Averages of checkpoints: exact sums, statistics as in torch's `update_bn`, greedy soups, refusals."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from senet.cli import main
from senet.data import Subset, eval_transform, open_data, write_images
from senet.errors import CheckpointError
from senet.inference.soup import _only_norms_train, average_models, greedy_soup, recompute_statistics
from senet.preprocessing import CIFAR
from senet.weights import CheckpointMetadata, average_checkpoints, read_checkpoint, write_checkpoint
from senet.weights.average import average_tensors
from senet.zoo import create_model, load_model

OPTIONS = {"depth": 1, "widths": [8, 16], "attention": {"kind": "se", "reduction": 4}}
IMAGES = replace(open_data("digits").default_preprocessing, size=(8, 8))
CLASSES = open_data("digits").classes


def write(path: Path, seed: int, **changes) -> Path:
    torch.manual_seed(seed)
    metadata = CheckpointMetadata(model="cifar_resnet20", options=OPTIONS, classes=CLASSES, preprocessing=IMAGES,
                                  metrics={"top1": 0.5})  # fmt: skip
    metadata = replace(metadata, **changes)
    if metadata.model != "cifar_resnet20":
        write_checkpoint(path, {"weight": torch.zeros(1)}, metadata)
        return path
    network = create_model(metadata.model, in_channels=metadata.preprocessing.in_channels,
                           num_classes=len(metadata.classes), **metadata.options)  # fmt: skip
    for tensor in (*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())):
        tensor.data.uniform_(0.2, 1.0) if tensor.ndim == 1 else tensor.data.normal_(0, 0.3)
    for name, tensor in network.named_buffers():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(seed + 5)
    write_checkpoint(path, network.state_dict(), metadata)
    return path


@pytest.fixture
def three(tmp_path) -> list[Path]:
    return [write(tmp_path / f"{seed}.safetensors", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    folder, digits = tmp_path_factory.mktemp("few"), open_data("digits")
    for part, source in (("train", digits.train), ("val", digits.val)):
        write_images(Subset(source, np.arange(70)), folder / part, classes=digits.classes)
    return folder


def test_weights_are_averaged_in_float64_and_integers_are_the_last(three, tmp_path, capsys):
    out = tmp_path / "average.safetensors"
    assert main(["average", *map(str, three), "--out", str(out)]) == 0
    assert "average of 3 of 3 checkpoints in" in capsys.readouterr().out
    states = [read_checkpoint(path)[0] for path in three]
    found, metadata = read_checkpoint(out)
    for key, tensor in found.items():
        each = [state[key] for state in states]
        expected = (
            torch.stack([one.double() for one in each]).mean(0).float() if tensor.is_floating_point() else each[-1]
        )
        assert torch.equal(tensor, expected), key
    assert metadata.metrics == {}
    assert [entry["file"] for entry in metadata.training["averaged"]] == ["0.safetensors", "1.safetensors",
                                                                          "2.safetensors"]  # fmt: skip
    assert load_model(out).classes == CLASSES


def test_the_mean_loses_no_digits():
    """The sum of 3,000 float32 numbers, which float32 itself would round 3,000 times; and 16-bit weights stay so."""
    states = [{"x": torch.tensor([0.1 + n], dtype=torch.float32)} for n in range(3000)]
    expected = np.mean([float(state["x"]) for state in states])
    assert float(average_tensors(states)["x"]) == np.float32(expected)
    halves = [{"x": torch.tensor([n], dtype=torch.bfloat16)} for n in (1.0, 2.0)]
    assert average_tensors(halves)["x"].dtype == torch.bfloat16


@pytest.mark.parametrize("double", [True, False])
def test_statistics_are_those_of_update_bn(double):
    torch.manual_seed(0)
    network = create_model("cifar_resnet20", num_classes=3, **OPTIONS)
    dtype = torch.float64 if double else torch.float32
    network = network.to(dtype)
    batches = [torch.randn(4, 3, 8, 8, dtype=dtype) for _ in range(3)]
    other = copy.deepcopy(network)
    update_bn(batches, other)
    network.eval()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode(), _only_norms_train(norms):
        for batch in batches:
            network(batch)
    for key, tensor in other.state_dict().items():
        assert torch.allclose(network.state_dict()[key].to(tensor.dtype), tensor, atol=1e-9 if double else 1e-5), key
    assert all(norm.momentum == 0.1 and not norm.training for norm in norms)


def test_statistics_of_training_images(three, few):
    data = open_data(f"folder:{few}")
    loaded = average_models(three)
    assert recompute_statistics(loaded, data, batch_size=32, workers=0) == 5
    other = average_models(three).model
    order = np.random.RandomState(0).permutation(70)
    transform = eval_transform(IMAGES)
    images = torch.stack([transform(data.train[int(n)][0]) for n in order])
    update_bn([images[:32], images[32:64]], other)
    for key, tensor in other.state_dict().items():
        assert torch.allclose(loaded.model.state_dict()[key], tensor, rtol=1e-4, atol=1e-5), key


def test_a_greedy_soup_keeps_what_helps(three):
    """The metric is made up, so that the second helps and the third doesn't."""
    states = [read_checkpoint(path)[0] for path in three]

    def key_of(state) -> float:
        return float(state["head.fc.bias"].double().sum())

    keys = {key_of(state): score for state, score in zip(states, (0.5, 0.6, 0.4), strict=True)}
    both = key_of(average_tensors([states[1], states[0]]))
    prepared = []

    def measured(loaded) -> float:
        found = key_of(loaded.model.state_dict())
        return keys.get(found, 0.7 if abs(found - both) < 1e-6 else 0.65)

    lines = []
    soup = greedy_soup(three, measured, prepare=prepared.append, report=lines.append)
    assert soup.chosen == (three[1], three[0])
    assert soup.metric == 0.7
    assert len(prepared) == 2
    assert lines[-2:] == [f"with {three[0]}: 70.00%", f"without {three[2]}: 65.00%"]
    found = soup.loaded.model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in average_tensors([states[1], states[0]]).items())


def test_on_the_command_line(three, few, tmp_path, capsys):
    out = tmp_path / "soup.safetensors"
    more = ["--data", f"folder:{few}", "--workers", "0", "--batch-size", "35", "--json"]
    assert main(["average", *map(str, three), "--soup", "--metric", "macro-f1", "--out", str(out), *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["averaged"]) <= set(map(str, three))
    assert 0 <= found["metrics"]["macro_f1"] <= 1
    assert main(["average", *map(str, three), "--out", str(out), *more]) == 0
    found = json.loads(capsys.readouterr().out)
    metadata = read_checkpoint(out)[1]
    assert metadata.metrics == found["metrics"]
    recomputed = read_checkpoint(out)[0]
    assert main(["average", *map(str, three), "--no-recompute-statistics", "--out", str(out), *more]) == 0
    averaged = average_checkpoints(three)[0]
    assert all(torch.equal(tensor, averaged[key]) for key, tensor in read_checkpoint(out)[0].items())
    assert {key for key in averaged if not torch.equal(averaged[key], recomputed[key])} == {
        key for key in averaged if key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    }
    found = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(out), "--data", f"folder:{few}", "--split", "val", "--workers", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == pytest.approx(found["metrics"]["top1"])


@pytest.mark.parametrize(("changes", "message"), [
    ({"model": "cifar_resnet32"}, "model is cifar_resnet32 and cifar_resnet20"),
    ({"options": OPTIONS | {"depth": 2}}, "options depth=2 and 1"),
    ({"classes": CLASSES[::-1]}, "classes differ at 0: '9' and '0'"),
    ({"classes": CLASSES[:3]}, "classes are 3 and 10"),
    ({"task": "segmentation", "model": "mine:net"}, "task is segmentation and classification"),
    ({"preprocessing": CIFAR}, "preprocessing is 32x32 pixels"),
])  # fmt: skip
def test_different_networks_are_refused_by_name(changes, message, tmp_path):
    paths = [write(tmp_path / "a.safetensors", 0), write(tmp_path / "b.safetensors", 1, **changes)]
    with pytest.raises(CheckpointError) as error:
        average_checkpoints(paths)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{paths[1]} and {paths[0]} can't be averaged: ")


def test_mistakes_are_refused_before_anything_is_written(three, tmp_path, capsys):
    def refused(*arguments) -> str:
        assert main(["average", *map(str, arguments)]) == 2
        return capsys.readouterr().err

    out = tmp_path / "new.safetensors"
    assert "at least two checkpoints" in refused(three[0], "--out", out)
    assert "is one of the checkpoints" in refused(*three, "--out", three[0])
    assert "name of a .safetensors file" in refused(*three, "--out", tmp_path / "new.pth")
    assert "--soup needs --data" in refused(*three, "--soup", "--out", out)
    assert "--limit needs --data" in refused(*three, "--limit", "3", "--out", out)
    assert "--recompute-statistics needs --data" in refused(*three, "--no-recompute-statistics", "--out", out)
    assert "nowhere.safetensors: no such file" in refused(three[0], tmp_path / "nowhere.safetensors", "--out", out)
    assert not out.exists()
    states = [read_checkpoint(path)[0] for path in three[:2]]
    with pytest.raises(CheckpointError, match=r"only one of them has head\.fc\.bias"):
        average_tensors([states[0], {key: value for key, value in states[1].items() if key != "head.fc.bias"}])
