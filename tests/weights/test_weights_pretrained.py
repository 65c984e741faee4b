"""Public checkpoints by tag, through the hub library's own code, from a cache laid out as it lays it out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import senet
from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.weights import cards, fetch, find_card, to_layout
from senet.weights.catalog import CARDS
from senet.zoo import model_spec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, repo: str, content: bytes, *, name: str | None = None) -> Path:
    """Lay a file out in the hub's cache; its blob is called by its hash, as the hub calls large files."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / (name or hashlib.sha256(content).hexdigest())
    link = folder / "snapshots" / COMMIT / "model.safetensors"
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)
    blob.write_bytes(content)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory) -> bytes:
    """timm's ResNet-18 with fresh weights, as the hub has it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    save_file({k: t.contiguous() for k, t in to_layout(senet.create_model("resnet18_v1_5"), "timm").items()}, path)
    return path.read_bytes()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, as `HF_HUB_CACHE` and `HF_HUB_OFFLINE` in the environment set it at import."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_cached_checkpoint_is_used_offline(offline: Path, resnet18: bytes) -> None:
    cached(offline, "timm/resnet18.a1_in1k", resnet18)
    model = senet.create_model("resnet18_v1_5", pretrained=True)
    torch.manual_seed(0)
    assert torch.equal(senet.create_model("resnet18_v1_5").head.fc.weight, model.head.fc.weight)
    assert model.spec.preprocessing.interpolation == "bicubic"
    assert model.training
    with pytest.warns(UserWarning, match=r"^head\.fc\.weight, head\.fc\.bias: newly initialized"):
        other = senet.create_model("resnet18_v1_5", pretrained="a1_in1k", num_classes=5, in_channels=1)
    assert torch.equal(other.stem[0][0].weight, model.stem[0][0].weight.sum(1, keepdim=True))
    backbone = senet.create_model("resnet18_v1_5", pretrained=True, features_only=True)
    assert len(backbone(torch.zeros(1, 3, 64, 64))) == 4


@torch.no_grad()
def test_timms_mobilenet_by_its_tag(offline: Path) -> None:
    """The card's option makes it timm's network: the same logits."""
    torch.manual_seed(0)
    x = torch.ones(1, 3, 64, 64)
    peer = pytest.importorskip("timm").create_model("mobilenetv1_100").eval()
    for name, tensor in peer.named_parameters():
        if name.endswith("weight") and tensor.ndim == 1:
            tensor.uniform_(0.5, 4)  # so that ReLU6 cuts
    save_file(peer.state_dict(), offline / "x.safetensors")
    cached(offline, "timm/mobilenetv1_100.ra4_e3600_r224_in1k", (offline / "x.safetensors").read_bytes())
    model = senet.create_model("mobilenet_v1", pretrained=True).eval()
    other = senet.create_model("mobilenet_v1").eval()
    other.load_state_dict(model.state_dict())
    want = peer(x)
    off, without = ((found(x) - want).abs().max() / want.abs().max() for found in (model, other))
    assert off < 1e-4
    assert without > 0.01
    assert (model.spec.activation, model.spec.preprocessing.mean) == ("relu6", (0.5, 0.5, 0.5))


def test_offline_and_not_cached_says_how_to_get_it(offline: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        senet.create_model("se_resnet18", pretrained=True)
    message = str(caught.value)
    assert message.startswith("model.safetensors of https://huggingface.co/timm/legacy_seresnet18.in1k is not in")
    assert "hf download timm/legacy_seresnet18.in1k model.safetensors" in message


def test_a_cached_file_must_have_the_hash_that_names_it(tmp_path: Path, resnet18: bytes) -> None:
    link = cached(tmp_path, "timm/resnet18.a1_in1k", resnet18)
    card = find_card("resnet18_v1_5", "a1_in1k")
    assert fetch(card, cache=tmp_path) == link
    link.resolve().write_bytes(resnet18[:-1])
    with pytest.raises(CheckpointError, match="truncated or altered; delete it and download"):
        fetch(card, cache=tmp_path)


def test_what_is_cached_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    link = cached(tmp_path, "timm/seresnet50.ra2_in1k", b"something", name="etag")
    monkeypatch.setattr("socket.getaddrinfo", asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert fetch(find_card("se_resnet50_v1_5", "ra2_in1k"), cache=tmp_path) == link


def test_a_cards_own_hash_goes_before(tmp_path: Path) -> None:
    cached(tmp_path, "timm/seresnet50.ra2_in1k", b"something", name="etag")
    card = find_card("se_resnet50_v1_5", "ra2_in1k")
    assert fetch(card, cache=tmp_path).read_bytes() == b"something"
    with pytest.raises(CheckpointError, match="the published one"):
        fetch(replace(card, sha256="0" * 64), cache=tmp_path)


def test_what_is_not_in_the_catalogue() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'ra2_in1k'"):
        senet.create_model("se_resnet50_v1_5", pretrained="ra2_in")
    with pytest.raises(SenetError, match="se_vgg16 has no public checkpoint; networks with one: "):
        senet.create_model("se_vgg16", pretrained=True)
    with pytest.raises(UnknownNameError, match="unknown model"):
        senet.create_model("se_resnet5", pretrained=True)


def test_the_catalogue_says_what_timm_says() -> None:
    timm = pytest.importorskip("timm")
    for card in CARDS:
        config = timm.get_pretrained_cfg(card.repo.removeprefix("timm/"))
        assert config is not None, card.repo
        assert config.hf_hub_id == card.repo or "legacy_" in card.repo
        assert card.licence == config.license
        assert card.num_classes == config.num_classes
        preprocessing = card.preprocessing
        assert (3, *preprocessing.size) == config.input_size
        assert preprocessing.crop_fraction == config.crop_pct
        assert preprocessing.interpolation == config.interpolation
        assert (preprocessing.mean, preprocessing.std) == (config.mean, config.std)


def test_every_card_is_of_a_network_here_and_says_no_hash_that_nobody_verified() -> None:
    for card in CARDS:
        spec = model_spec(card.model, **card.network_options())
        assert spec.preprocessing == card.preprocessing
        assert card.sha256 is None
        assert not card.metrics or (0.5 < card.metrics["top1"] < card.metrics["top5"] < 1 and card.metrics_source)
    assert next(iter(cards("se_resnet50_v1_5"))) == "ra2_in1k"


SMALLEST = ("se_resnet18", "se_resnext50_32x4d_v1_5", "resnet18_v1_5", "vgg11", "mobilenet_v1")
"""One of each family; `test_weights_converters` writes the layouts of densenets and inceptions."""


@pytest.mark.parametrize(
    "name",
    [
        name if name in SMALLEST else pytest.param(name, marks=pytest.mark.slow)
        for name in dict.fromkeys(card.model for card in CARDS)
    ],
)
def test_every_card_has_a_layout_of_its_network(name: str) -> None:
    card = find_card(name, True)
    assert to_layout(senet.create_model(name, device="meta", **card.network_options()), card.layout)
