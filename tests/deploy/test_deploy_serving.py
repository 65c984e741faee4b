"""What the page of `senet serve` shows, without a browser."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from PIL import Image

import senet
from senet.cli import main
from senet.data import CorruptImage
from senet.deploy.serving.drawing import gate_charts, overlay
from senet.deploy.serving.explanation import explain
from senet.deploy.serving.server import _listening, is_loopback
from senet.errors import SenetError
from senet.inspection.class_activation import class_activation
from senet.preprocessing import CIFAR
from senet.tasks import task_named
from senet.weights import CheckpointMetadata, write_checkpoint
from senet.zoo import LoadedModel

CLASSES = ("cat", "dog", "<b>fox</b>")


@pytest.fixture(scope="module")
def classifier() -> LoadedModel:
    torch.manual_seed(0)
    metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=CLASSES, preprocessing=CIFAR)
    network = senet.create_model("se_cifar_resnet20", num_classes=3).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return LoadedModel(network, CLASSES, CIFAR, metadata)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    Image.effect_noise((48, 40), 80).convert("RGB").save(path)
    return path


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_a_classifier_shows_classes_activation_and_gates(classifier, image):
    with senet.record_gates(classifier.model) as gates:
        [row] = senet.inference.predict(classifier, [str(image)], top=2)
    seen = explain(classifier, image, topk=2)
    assert list(seen.classes) == [name for name, _ in row.top]
    assert list(seen.classes.values()) == pytest.approx([share for _, share in row.top], abs=1e-5)
    assert (seen.image.size, seen.activation.size) == ((48, 40), (256, 256))
    assert list(seen.gates) == [path.removesuffix(".se") for path in gates]
    torch.testing.assert_close(seen.gates["stages.4.2"], gates["stages.4.2.se"].flatten().cpu())
    assert hooks(classifier.model) == 0


def test_the_activation_is_zhous_map_where_a_linear_layer_follows_the_mean(image):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 4)
    ).double()
    images = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    logits, maps = class_activation(network, images)
    weights = network[3].weight[logits.argmax(1)][:, :, None, None]
    expected = (weights * network[0](images)).sum(1).relu()
    torch.testing.assert_close(maps / maps.max(), expected / expected.max(), atol=1e-9, rtol=1e-9)


def test_hooks_are_gone_after_an_error(classifier):
    def fail(*_):
        raise RuntimeError("stopped")

    handle = classifier.model.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stopped"):
        class_activation(classifier.model, torch.rand(1, 3, 32, 32))
    handle.remove()
    assert hooks(classifier.model) == 0


def test_a_bad_image_is_named(classifier, tmp_path):
    path = tmp_path / "bad.png"
    path.write_text("no image")
    with pytest.raises(CorruptImage, match=r"bad\.png"):
        explain(classifier, path)
    assert hooks(classifier.model) == 0


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_other_tasks_show_their_drawing(task, image):
    network = task_named(task).build("se_cifar_resnet20", num_classes=3, preprocessing=CIFAR, options={}, head={})
    metadata = CheckpointMetadata(model="se_cifar_resnet20", classes=CLASSES, preprocessing=CIFAR, task=task)
    seen = explain(LoadedModel(network.eval(), CLASSES, CIFAR, metadata), image)
    assert (seen.image.size, seen.classes, seen.activation, len(seen.gates)) == ((48, 40), {}, None, 9)


def test_a_network_without_attention_has_no_gates(image):
    metadata = CheckpointMetadata(model="cifar_resnet20", classes=CLASSES, preprocessing=CIFAR)
    network = senet.create_model("cifar_resnet20", num_classes=3).eval()
    assert explain(LoadedModel(network, CLASSES, CIFAR, metadata), image).gates == {}


def test_charts_show_their_block_and_escape_its_name():
    text = gate_charts({"<i>": torch.tensor([0.25, 1.0])})
    assert "V75H1V0H2" in text
    assert "<i>" not in text
    assert "2 gates, mean 0.62" in text


def test_the_hottest_place_is_the_brightest():
    heat = torch.zeros(2, 2)
    heat[0, 1] = 3.0
    drawn = overlay(Image.new("L", (300, 300), 128), heat).convert("L")
    assert drawn.getpixel((299, 0)) > drawn.getpixel((0, 299)) + 100


def test_a_taken_port_is_one_line():
    with _listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(SenetError, match=f"port {port} of 127.0.0.1: already in use"),
            _listening("127.0.0.1", port),
        ):
            pass


def test_loopback():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["x", "--port", "70000"], "must be in 0..65535"), (["x.onnx"], "exported file"), (["x"], "senet[serve]")],
)
def test_refusals(arguments, expected, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["serve", *arguments]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_a_taken_port_and_an_open_address_on_the_command_line(host, warned, classifier, tmp_path, monkeypatch, capsys):
    for package in ("gradio", "fastapi", "uvicorn"):  # none is used before the port is taken
        monkeypatch.setitem(sys.modules, package, ModuleType(package))
    path = tmp_path / "best.safetensors"
    write_checkpoint(path, classifier.model.state_dict(), classifier.metadata)
    with _listening(host, 0) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(path), "--host", host, "--port", str(port)]) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert f"port {port} of {host}: already in use" in error
    expected = [f"warning: --host {host} lets other machines use this page, without a password"]
    assert warnings == (expected if warned else [])
