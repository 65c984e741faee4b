"""Export of what isn't the usual image network: other channels, signals and volumes, computed weights, hooks."""

from __future__ import annotations

import json
import threading
import zipfile
from dataclasses import replace
from typing import Any

import pytest
import torch
from export_helpers import CLASSES, SMALL, SUFFIX, difference, images, loaded
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import senet
from senet.deploy import Check, export, load_exported
from senet.deploy.bench import randomise
from senet.deploy.export_metadata import ExportMetadata
from senet.deploy.loading import read_export_metadata
from senet.deploy.prepare_for_export import prepare_for_export
from senet.errors import CheckpointError, SenetError
from senet.nn import ATTENTIONS, GE, SE, ScSE
from senet.preprocessing import Preprocessing

QUICK = Check(images=1)
TINY = Preprocessing(size=(24, 24), crop_fraction=1.0)


class Small(nn.Module):
    """A network as a user writes it."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.se = senet.SqueezeExcite(8, 2)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = x + self.se(self.mix(x))
        return self.fc(x.mean((2, 3)))


def small(channels: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return randomise(Small(channels)).eval()


# --- other numbers of channels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "channels"),
    [
        ("torch", 12),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("onnx", 1), ("onnx", 12), ("openvino", 4), ("torch", 1), ("torch", 4))
        ),
    ],
)
def test_networks_of_any_number_of_channels(format: str, channels: int, tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = randomise(senet.create_model("se_cifar_resnet20", depth=1, num_classes=5, in_channels=channels)).eval()
    assert model.spec.preprocessing.in_channels == channels
    path = tmp_path / f"x{SUFFIX[format]}"
    report = export(model, path, format=format, check=QUICK)
    assert report.drift < 1e-5
    again = load_exported(path, runtime="torch" if format == "torch" else None)
    assert again.preprocessing == model.spec.preprocessing
    x = images(3, channels, 40, 32)
    with torch.no_grad():
        assert difference(again.model(x), model(x)) < 1e-4
    with pytest.raises(SenetError, match=rf"takes images \(N, {channels}, H, W\)"):
        again.model(images(1, channels + 1, 32, 32))


@pytest.mark.parametrize("channels", [1, 4, 12])
def test_the_cost_of_networks_of_any_number_of_channels(channels: int) -> None:
    model = senet.create_model("se_cifar_resnet20", depth=1, in_channels=channels)
    usual = senet.create_model("se_cifar_resnet20", depth=1)
    images_of = model.spec.preprocessing
    found = senet.cost(model, (images_of.in_channels, *images_of.size))
    assert found.params - senet.cost(usual, (3, 32, 32)).params == (channels - 3) * 16 * 9


@pytest.mark.parametrize("channels", [1, 7, *(pytest.param(c, marks=pytest.mark.slow) for c in (2, 3))])
def test_a_users_network_is_asked_for_its_channels(channels: int, tmp_path: Any) -> None:
    report = export(small(channels), tmp_path / "x.pt2", format="torch", check=QUICK, size=(24, 24))
    assert report.metadata.preprocessing.in_channels == channels


def test_the_user_says_what_images_are(tmp_path: Any) -> None:
    said = Preprocessing(size=(20, 20), mean=(0.1,) * 4, std=(0.5,) * 4, channel_order="other")
    report = export(small(4), tmp_path / "x.pt2", format="torch", check=QUICK, preprocessing=said)
    assert report.metadata.preprocessing == said
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 5))
    with pytest.raises(SenetError, match=r"can't take images \(1, 3, 224, 224\): .*; set preprocessing="):
        export(flat, tmp_path / "y.pt2", format="torch", check=QUICK)
    report = export(flat, tmp_path / "y.pt2", format="torch", check=QUICK, preprocessing=TINY)
    assert report.metadata.size == (24, 24)


def test_preprocessing_that_does_not_fit_the_channels_is_told() -> None:
    with pytest.raises(SenetError, match="preprocessing is for 3 channels and in_channels=4"):
        senet.create_model("se_cifar_resnet20", in_channels=4, preprocessing=TINY)


# --- signals and volumes ----------------------------------------------------------------------------------------------

LAYERS = {
    **{kind: spec() for kind, spec in ATTENTIONS.items()},
    "se-max": SE(reduction=4, squeeze="mean+max", gate="hard-sigmoid", bias=False),
    "se-none": SE(reduction=4, squeeze="none", gate="tanh"),
    "se-identity": SE(init="identity"),
    "ge-global": GE(extent=0, learned_gather=False),
    "ge-average": GE(extent=2, learned_gather=False, reduction=None),
    "scse-max": ScSE(combine="max"),
}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


VOLUMES = {"se", "ge", "cbam", "bam", "sk", "fca", "coord", "triplet", "split"}
"""Layers whose volumes the quick tests export: the others have no further operator with dimensions."""


@pytest.mark.parametrize(
    ("spec", "ndim"),
    [
        pytest.param(spec, ndim, id=f"{name}-{ndim}", marks=[pytest.mark.slow] * (not quick))
        for name, spec in LAYERS.items()
        for ndim, quick in ((1, False), (2, True), (3, name in VOLUMES))
    ],
)
def test_every_layer_in_every_dimension(spec: Any, ndim: int) -> None:
    model = randomise(nn.Sequential(CONVS[ndim](3, 16, 3), spec.build(16, ndim=ndim))).eval()
    x = images(2, 3, *[14] * ndim)
    made = prepare_for_export(model)
    traced = torch.export.export(made, (x,)).module()
    with torch.no_grad():
        for found in (made(x), traced(x)):
            assert difference(found, model(x)) < 1e-4


@pytest.mark.parametrize("ndim", CONVS)
def test_a_gate_becomes_convolutions_in_every_dimension(ndim: int) -> None:
    made = prepare_for_export(nn.Sequential(senet.SqueezeExcite(16, 4, ndim=ndim)))
    assert [type(m) for m in made.modules() if not list(m.children())] == [CONVS[ndim]] * 2


# --- weights that are computed, and hooks -----------------------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def masked(module: nn.Module) -> None:
    prune.l1_unstructured(module, "weight", 0.3)
    prune.random_unstructured(module, "bias", 0.5)


COMPUTED: dict[str, Any] = {
    "weight norm": weight_norm,
    "weight norm, new": parametrizations.weight_norm,
    "spectral norm": spectral_norm,
    "spectral norm, new": parametrizations.spectral_norm,
    "one's own": lambda module: parametrize.register_parametrization(module, "weight", Doubled()),
    "masks": masked,
    "norm and mask": lambda module: (weight_norm(module), prune.random_unstructured(module, "bias", 0.5)),
}


AGAIN = ("changes an input", "after the gate", "of gradients", "weight norm", "spectral norm", "norm and mask")
"""Cases that take the way of another one: left to the slow tests."""


def each(cases: dict[str, Any]) -> list[Any]:
    return [pytest.param(case, id=name, marks=[pytest.mark.slow] * (name in AGAIN)) for name, case in cases.items()]


@pytest.mark.parametrize("wrap", each(COMPUTED))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_computed_weights(wrap: Any, tmp_path: Any) -> None:
    model = small().train()
    for module in (model.conv, model.mix, model.fc, model.se.fc1):
        wrap(module)
    x = images(2, 3, 24, 24)
    model(x).sum().backward()  # the weights have a history now, which can't be copied
    model.eval()
    with torch.no_grad():
        expected = model(x)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    made = prepare_for_export(model)
    assert difference(made(x), expected) < 1e-4
    assert all("weight" in dict(m.named_parameters()) for m in made.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    report = export(model, tmp_path / "x.pt2", format="torch", check=QUICK, preprocessing=TINY)
    assert report.drift < 1e-4
    with torch.no_grad():
        assert difference(load_exported(report.path, runtime="torch").model(x), expected) < 1e-4
        assert torch.equal(model(x), expected)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    model.train()(x).sum().backward()


HOOKS: dict[str, Any] = {
    "changes an output": lambda m: m.conv.register_forward_hook(lambda module, args, out: out * 2),
    "changes an input": lambda m: m.mix.register_forward_pre_hook(lambda module, args: (args[0] * 3,)),
    "after the gate": lambda m: m.se.register_forward_hook(lambda module, args, out: out + 1),
    "inside the gate": lambda m: m.se.fc1.register_forward_hook(lambda module, args, out: out * 0.5),
    "on the whole": lambda m: m.register_forward_hook(lambda module, args, out: out * 0.5),
    "keeps a map": lambda m: m.norm.register_forward_hook(lambda module, args, out: setattr(module, "seen", out)),
    "of gradients": lambda m: m.conv.register_full_backward_hook(lambda *args: None),
    "a forward of its own": lambda m: setattr(m.se, "forward", lambda x: x * 0.3),
    "inserted attention": lambda m: senet.retrofit(
        m, senet.SE(4), where="conv", example_inputs=[torch.zeros(1, 3, 24, 24)]
    ),
}


@pytest.mark.parametrize("hook", each(HOOKS))
def test_hooks_take_part(hook: Any, tmp_path: Any) -> None:
    model = small()
    hook(model)
    x = images(2, 3, 24, 24)
    with torch.no_grad():
        expected = model(x)
        report = export(model, tmp_path / "x.pt2", format="torch", check=QUICK, preprocessing=TINY)
        assert difference(load_exported(report.path, runtime="torch").model(x), expected) < 1e-4


def compiled_child(model: nn.Module) -> nn.Module:
    model.conv = torch.compile(model.conv)
    return model


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, compiled_child], ids=["compiled", "parallel", "compiled child"]
)
def test_wrapped_networks(wrap: Any, tmp_path: Any) -> None:
    model = small()
    x = images(2, 3, 24, 24)
    with torch.no_grad():
        expected = model(x)
    report = export(wrap(model), tmp_path / "x.pt2", format="torch", check=QUICK, preprocessing=TINY)
    assert report.metadata.model == "Small"
    assert difference(load_exported(report.path, runtime="torch").model(x), expected) < 1e-4


def test_what_can_not_be_copied_is_shared(tmp_path: Any) -> None:
    model = small()
    model.lock = threading.Lock()
    x = images(2, 3, 24, 24)
    report = export(model, tmp_path / "x.pt2", format="torch", check=QUICK, preprocessing=TINY)
    with torch.no_grad():
        assert difference(load_exported(report.path, runtime="torch").model(x), model(x)) < 1e-4


# --- what a file says of itself ---------------------------------------------------------------------------------------

ODD_TEXTS: dict[str, str] = {
    "senet_format": "true",
    "classes": '{"a": 1}',
    "preprocessing": '{"std": [0, 0, 0]}',
    "size": "[1, 2, 3]",
    "batch": "0",
    "precision": '"fp4"',
    "metrics": '{"top1": "high"}',
    "model": "[" * 100_000,
}


@pytest.mark.parametrize("key", ODD_TEXTS)
def test_odd_texts_in_a_file_are_told(key: str, tmp_path: Any) -> None:
    texts = ExportMetadata(model="x", classes=CLASSES, preprocessing=SMALL).to_texts()
    path = tmp_path / "x.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/extra/senet.json", json.dumps(texts | {key: ODD_TEXTS[key]}))
    with pytest.raises(CheckpointError, match=r"x\.pt2") as caught:
        read_export_metadata(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", '{"a": NaN}', " " * (1 << 27)], ids=["deep", "list", "nan", "huge"]
)
def test_an_odd_archive_is_told(content: str, tmp_path: Any) -> None:
    path = tmp_path / "x.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/extra/senet.json", content)
    with pytest.raises(CheckpointError, match=r"x\.pt2: not a complete torch\.export"):
        read_export_metadata(path)


def test_a_loaded_model_keeps_what_it_says(tmp_path: Any) -> None:
    given = loaded("se_cifar_resnet20", depth=1)
    other = replace(SMALL, size=(32, 32))
    for said, expected in ((None, SMALL), (other, other)):
        report = export(given, tmp_path / "x.pt2", format="torch", check=QUICK, preprocessing=said)
        assert report.metadata.preprocessing == expected
