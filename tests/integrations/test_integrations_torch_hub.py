"""torch.hub loads the networks from a checkout, and its functions find them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import senet.zoo

ROOT = Path(__file__).parents[2]


def load(name: str, **options):
    return torch.hub.load(str(ROOT), name, source="local", **options)


@pytest.fixture
def downloaded(tmp_path, monkeypatch) -> str:
    """The name of the repository, as if torch.hub had downloaded it: only GitHub's archive is left out."""
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path))
    (tmp_path / "someone_senet_main").symlink_to(ROOT)
    return "someone/senet:main"


def test_each_network_is_an_entry_point(downloaded: str) -> None:
    assert sorted(torch.hub.list(downloaded, skip_validation=True, trust_repo=True)) == senet.list_models()


def test_help_shows_the_options(downloaded: str) -> None:
    text = torch.hub.help(downloaded, "se_resnet50", skip_validation=True, trust_repo=True)
    assert text.startswith("Build `se_resnet50`.")
    assert "num_classes" in text
    assert torch.hub.load(
        downloaded, "se_resnet18", skip_validation=True, trust_repo=True, device="meta"
    ).spec == senet.zoo.model_spec("se_resnet18")


def test_the_network_is_that_of_create_model() -> None:
    torch.manual_seed(0)
    model = load("se_cifar_resnet20", num_classes=3, depth=1)
    torch.manual_seed(0)
    expected = senet.create_model("se_cifar_resnet20", num_classes=3, depth=1)
    assert model.spec == expected.spec
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in model.state_dict().items())
    with torch.device("meta"):
        assert load("se_resnet50").head.fc.out_features == 1000
    backbone = load("se_resnet18", features_only=True, device="meta")
    assert backbone.channels == (64, 128, 256, 512)


def test_mistakes_are_those_of_create_model() -> None:
    with pytest.raises(senet.SenetError, match="num_clases"):
        load("se_resnet18", num_clases=3)
    with pytest.raises(RuntimeError, match="se_resnet5O"):
        load("se_resnet5O")


@pytest.mark.slow
def test_a_checkout_needs_no_installation() -> None:
    code = (
        "import sys, torch\n"
        "sys.path = [entry for entry in sys.path if entry not in ('', SRC)]\n"
        "before = list(sys.path)\n"
        "model = torch.hub.load(ROOT, 'se_cifar_resnet20', source='local')\n"
        "import senet\n"
        "assert senet.__file__.startswith(SRC), senet.__file__\n"
        "assert sys.path == before\n"
    )
    code = code.replace("SRC", repr(str(ROOT / "src"))).replace("ROOT", repr(str(ROOT)))
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
