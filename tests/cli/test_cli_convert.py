"""`senet convert`: anybody's weights in, ours or timm's out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from senet import SE, create_model, load_model
from senet.weights import to_layout

NETWORK = ("--model", "se_cifar_resnet20")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = create_model("se_cifar_resnet20", projection=True, attention=SE(bias=False))
    torch.save(to_layout(create_model("cifar_resnet20"), "cifar"), tmp_path / "plain.pth")
    torch.save(to_layout(model, "moskomule"), tmp_path / "se.pth")
    torch.save(create_model("resnet18_v1_5").state_dict(), tmp_path / "resnet18.pth")
    return tmp_path


def test_a_checkpoint_that_the_other_verbs_use(senet, theirs: Path) -> None:
    (theirs / "names.txt").write_text("\n".join("abcdefghij"))
    out = theirs / "out.safetensors"
    code, told, _ = senet("convert", theirs / "plain.pth", "--model", "cifar_resnet20", "--out", out,
                          "--classes", theirs / "names.txt")  # fmt: skip
    assert code == 0
    assert "(cifar, 117 tensors)" in told or "(cifar," in told
    loaded = load_model(out)
    assert loaded.classes == tuple("abcdefghij")
    assert loaded.description.training == {"converted_from": "plain.pth", "layout": "cifar"}
    tensors = torch.load(theirs / "plain.pth", weights_only=True)
    assert torch.equal(loaded.model.stem[0].weight, tensors["conv1.weight"])
    assert json.loads(out.with_suffix(".json").read_text())["model"] == "cifar_resnet20"


def test_classes_are_numbered_where_unknown(senet, theirs: Path) -> None:
    out = theirs / "out.safetensors"
    assert senet("convert", theirs / "plain.pth", "--model", "cifar_resnet20", "--out", out)[0] == 0
    assert load_model(out).classes == tuple(map(str, range(10)))


def test_to_timm(senet, theirs: Path) -> None:
    out = theirs / "timm.safetensors"
    code, _, err = senet("convert", theirs / "resnet18.pth", "--model", "resnet18_v1_5", "--to", "timm", "--out", out)
    assert code == 0, err
    assert not out.with_suffix(".json").exists()
    tensors = load_file(out)
    pytest.importorskip("timm").create_model("resnet18").load_state_dict(tensors, strict=True)


def test_refusals(refused, theirs: Path) -> None:
    plain, out = theirs / "plain.pth", theirs / "out.safetensors"
    assert "use the plain form" in refused("convert", plain, *NETWORK, "--out", out)
    assert "ends in .safetensors" in refused("convert", plain, *NETWORK, "--out", theirs / "x.pth")
    assert "unknown layout" in refused("convert", plain, *NETWORK, "--out", out, "--to", "keras")
    assert "unknown layout" in refused("convert", plain, *NETWORK, "--out", out, "--layout", "keras")
    assert "unknown model" in refused("convert", plain, "--model", "resnet", "--out", out)
    assert "no such file" in refused("convert", theirs / "absent.pth", *NETWORK, "--out", out)
    (theirs / "three.txt").write_text("a\nb\nc\n")
    message = refused("convert", plain, "--model", "cifar_resnet20", "--num-classes", 10, "--out", out,
                      "--classes", theirs / "three.txt")  # fmt: skip
    assert "has 3 names, the network 10 outputs" in message
    assert "checkpoint num_classes=10, model num_classes=3" in refused(
        "convert", plain, "--model", "cifar_resnet20", "--out", out, "--classes", theirs / "three.txt"
    )
    assert not out.exists()
