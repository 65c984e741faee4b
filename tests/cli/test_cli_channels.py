"""From a folder of four 16-bit bands to an exported file: training, evaluation, prediction, with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_options import QUICK
from PIL import Image
from torchvision.models import resnet18

from senet.cli import main
from senet.data import open_data
from senet.data.band_statistics import band_statistics
from senet.tasks import load_model
from senet.training.job import Job
from senet.training.model_initialization import ModelInitialization
from senet.zoo import build_model

TRAIN = ["train", "se_cifar_resnet20", "--model-kwargs", "depth=8", *QUICK, "--epochs", "1", "--batch-size", "8"]
CHANNELS = ["--channels", "4", "--bit-depth", "16"]


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten images; only the low eight bits of the last band tell them apart."""
    root, rng = tmp_path_factory.mktemp("bands"), np.random.default_rng(0)
    for part, count in (("train", 10), ("val", 4)):
        for label in (0, 1):
            folder = root / part / "ab"[label]
            folder.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 65536, (8, 8, 4), dtype=np.uint16)
                image[..., 3] = 200 * label + rng.integers(0, 50)
                np.save(folder / f"{index}.npy", image)
    return root


@pytest.fixture(scope="module")
def run(bands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main([*TRAIN, "--data", f"folder:{bands}", *CHANNELS, "--size", "8", "--out", str(folder)]) == 0
    return folder


def test_statistics_are_in_the_run_and_in_the_checkpoint(bands, run, senet, monkeypatch) -> None:
    found = band_statistics(open_data(f"folder:{bands}").train, channels=4, bit_depth=16)
    images = load_model(run).preprocessing
    assert (images.mean, images.std, images.bit_depth) == (found.mean, found.std, 16)
    assert Job.read(run).source.statistics == {"mean": list(found.mean), "std": list(found.std)}
    monkeypatch.setattr("senet.data.band_statistics.band_statistics", None)  # a resumed run doesn't compute them again
    code, _, err = senet("train", "--resume", run)
    assert code == 0, err


def test_doctor_prints_what_training_takes(bands, senet, tmp_path) -> None:
    code, out, _ = senet("doctor", f"folder:{bands}", "--statistics", "--json")
    assert code == 0
    assert json.loads(out)["statistics"]["channels"] == 4
    (tmp_path / "statistics.json").write_text(out)
    code, out, err = senet(*TRAIN, "--data", f"folder:{bands}", *CHANNELS, "--dry-run", "--size", "8",
                           "--statistics", tmp_path / "statistics.json")  # fmt: skip
    assert code == 0, err
    assert "4 x 8 x 8" in out
    code, out, _ = senet("doctor", f"folder:{bands}", "--workers", "0")
    assert "train: 20 files of 4 channels, 16 bit" in out
    assert code == 0


def probabilities(senet, path: Path, network: Path) -> dict[str, float]:
    """Predict one file on the command line."""
    code, out, err = senet("predict", path, "--checkpoint", network, "--json")
    assert code == 0, err
    return {top["label"]: top["probability"] for top in json.loads(out)[0]["top"]}


def test_files_and_arrays_give_the_same_probabilities(bands, run, senet) -> None:
    path = bands / "val" / "a" / "0.npy"
    expected, loaded, array = probabilities(senet, path, run), load_model(run), np.load(path)
    for one in (loaded.predict(array)[0], loaded.predict(np.stack([array] * 2))[1], loaded.predict([path])[0]):
        assert one.probabilities == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_exported_files_give_the_same_probabilities(bands, run, senet, tmp_path) -> None:
    pytest.importorskip("onnx")
    exported, path = tmp_path / "network.onnx", bands / "val" / "a" / "0.npy"
    code, _, err = senet("export", run, "--format", "onnx", "--out", exported, "--data", f"folder:{bands}")
    assert code == 0, err
    assert probabilities(senet, path, exported) == pytest.approx(probabilities(senet, path, run), abs=1e-6)
    code, _, err = senet("evaluate", exported, "--data", f"folder:{bands}", "--report", tmp_path / "report")
    assert code == 0, err
    assert "data:image" in (tmp_path / "report" / "index.html").read_text()


def test_other_images_are_refused_in_one_line(bands, run, senet, tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "rgb.png")
    code, out, _ = senet("predict", tmp_path / "rgb.png", "--checkpoint", run)
    assert code == 1
    assert "3 channels, expected 4" in out
    for options, message in (
        (["--channels", "3"], "npy: 4 channels of uint16, expected RGB or grey of 8 bits"),
        (["--channels", "4"], "npy: 16-bit values, expected 8 bits; --bit-depth 16"),
        (["--channels", "2", "--bit-depth", "16"], "npy: 4 channels, expected 2"),
        (["--bit-depth", "7"], "8 to 16"),
    ):
        code, _, err = senet(*TRAIN, "--data", f"folder:{bands}", *options, "--size", "8", "--out", tmp_path / "run")
        assert code == 2
        assert message in " ".join(err.split()), err
    assert not (tmp_path / "run" / "best.safetensors").exists()


def test_weights_of_other_channels_begin_a_training(run, tmp_path) -> None:
    """The first convolution's weights are repeated and rescaled, or summed. All others stay."""
    init = ModelInitialization.from_checkpoint(str(run))
    assert init.adapted_channels(init.preprocessing) == ""
    there = load_model(run).model.state_dict()
    first = next(iter(there))
    stem = there[first]
    for channels, expected, how in (
        (6, stem[:, [0, 1, 2, 3, 0, 1]] * (4 / 6), "repeated in turn and scaled by 4/6 for 6"),
        (1, stem.sum(1, keepdim=True), "summed for 1"),
    ):
        images = init.preprocessing.with_channels(channels)
        here = init.build(("a", "b"), images).model.state_dict()
        torch.testing.assert_close(here.pop(first), expected, atol=1e-7, rtol=0)
        assert all(torch.equal(tensor, there[key]) for key, tensor in here.items())
        assert init.adapted_channels(images) == f"the first convolution's weights for 4 channels are {how}"


def test_another_librarys_file_begins_a_training_with_other_channels(tmp_path) -> None:
    state = resnet18(num_classes=3).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    init, _ = ModelInitialization.from_external_file(str(tmp_path / "resnet18.pth"), "resnet18_v1_5", {})
    for classes in ("ab", "abc"):
        model = init.build(tuple(classes), init.preprocessing.with_channels(5)).model
        weight = next(model.parameters())
        torch.testing.assert_close(weight, state["conv1.weight"][:, [0, 1, 2, 0, 1]] * 0.6)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "se_resnet18"])
def test_every_library_takes_any_channels(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    model = build_model(name, num_classes=2, in_channels=5).eval()
    assert model(torch.zeros(1, 5, 32, 32)).shape == (1, 2)
