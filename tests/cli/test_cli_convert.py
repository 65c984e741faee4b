"""`senet convert`: anybody's weights in, ours or timm's out."""

from __future__ import annotations

import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from senet import SE, create_model, load_model
from senet.preprocessing import CIFAR, IMAGENET
from senet.weights import cards, load_weights, to_layout

NETWORK = ("--model", "se_cifar_resnet20")


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    torch.save(to_layout(create_model("cifar_resnet20"), "cifar"), tmp_path / "plain.pth")
    return tmp_path


def test_a_checkpoint_that_the_other_verbs_use(senet, theirs: Path) -> None:
    (theirs / "names.txt").write_text("\n".join("abcdefghij"))
    out = theirs / "out.safetensors"
    code, told, _ = senet("convert", theirs / "plain.pth", "--model", "cifar_resnet20", "--out", out,
                          "--class-names", theirs / "names.txt")  # fmt: skip
    assert code == 0
    assert "(cifar, 117 tensors)" in told or "(cifar," in told
    loaded = load_model(out)
    assert loaded.classes == tuple("abcdefghij")
    assert loaded.metadata.training == {"converted_from": "plain.pth", "layout": "cifar"}
    tensors = torch.load(theirs / "plain.pth", weights_only=True)
    assert torch.equal(loaded.model.stem[0].weight, tensors["conv1.weight"])
    assert json.loads(out.with_suffix(".json").read_text())["model"] == "cifar_resnet20"


def test_classes_are_numbered_where_unknown(senet, theirs: Path) -> None:
    out = theirs / "out.safetensors"
    assert senet("convert", theirs / "plain.pth", "--model", "cifar_resnet20", "--out", out)[0] == 0
    assert load_model(out).classes == tuple(map(str, range(10)))


def test_to_timm(senet, theirs: Path) -> None:
    out = theirs / "timm.safetensors"
    torch.save(create_model("resnet18_v1_5").state_dict(), theirs / "resnet18.pth")
    code, _, err = senet("convert", theirs / "resnet18.pth", "--model", "resnet18_v1_5", "--to", "timm", "--out", out)
    assert code == 0, err
    assert not out.with_suffix(".json").exists()
    tensors = load_file(out)
    pytest.importorskip("timm").create_model("resnet18").load_state_dict(tensors, strict=True)


RESNET20 = ("--model", "cifar_resnet20")


def test_images_go_through_what_the_library_shows_such_networks(senet, theirs: Path) -> None:
    """Other statistics than those that our own network of that name has."""
    out = theirs / "out.safetensors"
    code, told, _ = senet("convert", theirs / "plain.pth", *RESNET20, "--out", out)
    assert code == 0
    assert "images: 32x32 pixels, " in told
    assert "mean 0.485 0.456 0.406, std 0.229 0.224 0.225" in told
    loaded = load_model(out)
    assert loaded.preprocessing == replace(CIFAR, mean=IMAGENET.mean, std=IMAGENET.std)
    assert loaded.metadata.options == {}
    with torch.device("meta"):
        legacy = create_model("se_resnet50")
    report = load_weights(legacy, to_layout(create_model("se_resnet50"), "cadene"))
    assert legacy.spec.preprocessing.channel_order == "BGR"
    assert report.images == IMAGENET


def test_images_go_through_what_the_user_says(senet, theirs: Path) -> None:
    out = theirs / "out.safetensors"
    code, told, err = senet("convert", theirs / "plain.pth", *RESNET20, "--out", out, "--mean", 0.5, 0.25, 0,
                            "--size", "40x36", "--interpolation", "bicubic")  # fmt: skip
    assert code == 0, err
    assert "images: 40x36 pixels, 1 of the shorter edge, bicubic, RGB in 0..1, mean 0.5 0.25 0, std 0.229" in told
    given = load_model(out).preprocessing
    assert given == replace(CIFAR, size=(40, 36), interpolation="bicubic", mean=(0.5, 0.25, 0.0), std=IMAGENET.std)


def test_a_network_for_grey_images(senet, theirs: Path) -> None:
    grey = create_model("cifar_resnet20", in_channels=1)
    torch.save(to_layout(grey, "cifar"), theirs / "grey.pth")
    out = theirs / "out.safetensors"
    told = senet("convert", theirs / "grey.pth", *RESNET20, "--out", out,
                 "--channel-order", "L", "--mean", 0.5, "--std", 0.25)  # fmt: skip
    assert told[0] == 0, told
    assert load_model(out).model.stem[0].weight.shape == (16, 1, 3, 3)


def test_a_published_checkpoint_by_its_tag(senet, theirs: Path) -> None:
    """Its card says what its names don't: the activation, the statistics; the user still has the last word."""
    torch.manual_seed(0)
    peer = pytest.importorskip("timm").create_model("mobilenetv1_100").eval()
    torch.save(peer.state_dict(), theirs / "mobilenet.pth")
    out = theirs / "out.safetensors"
    code, _, err = senet("convert", theirs / "mobilenet.pth", "--model", "mobilenet_v1", "--out", out,
                         "--tag", "ra4_e3600_r224_in1k", "--crop-fraction", 1)  # fmt: skip
    assert code == 0, err
    loaded = load_model(out)
    assert loaded.metadata.options == {"activation": "relu6"}
    assert loaded.preprocessing == replace(cards("mobilenet_v1")["ra4_e3600_r224_in1k"].preprocessing, crop_fraction=1)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(loaded.model(images), peer(images), atol=1e-5)


def test_options_of_the_network_that_have_no_flag(senet, theirs: Path) -> None:
    moskomule = create_model("se_cifar_resnet20", projection=True, attention=SE(bias=False))
    torch.save(to_layout(moskomule, "moskomule"), theirs / "se.pth")
    out = theirs / "out.safetensors"
    code, _, err = senet("convert", theirs / "se.pth", *NETWORK, "--out", out,
                         "--model-kwargs", "projection=true", "--attention", "se:bias=false")  # fmt: skip
    assert code == 0, err
    loaded = load_model(out)
    assert loaded.metadata.options["projection"] is True
    assert torch.equal(loaded.model.stages["3"][0].shortcut[0].weight, moskomule.stages["3"][0].shortcut[0].weight)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--mean", "0.5", "0.5"), "mean has 2 and std 3 values; channel_order='RGB' needs 3 of each"),
        (("--std", "1", "0", "1"), "must be positive"),
        (("--mean", "nan", "0", "0"), "must be finite"),
        (("--std", "1", "inf", "1"), "must be finite"),
        (("--value-range", "nan"), "must be finite"),
        (("--mean", "a"), "invalid float value"),
        (("--interpolation", "cubic"), "use 'bilinear', 'bicubic' or 'nearest'"),
        (("--channel-order", "RGBA"), "use 'RGB', 'BGR', 'L' or 'other'"),
        (("--channel-order", "L", "--mean", "0", "--std", "1"), "checkpoint in_channels=3, model in_channels=1"),
        (("--crop-fraction", "2"), "must lie in (0, 1]"),
        (("--size", "0"), "write 224, or 256x192"),
        (("--tag", "in1k"), "cifar_resnet20 has no public checkpoint"),
        (("--to", "cifar", "--mean", "0", "0", "0"), "--mean: only a checkpoint of this package keeps"),
        (("--model-kwargs", "projection"), "write NAME=VALUE"),
        (("--model-kwargs", "=1"), "write NAME=VALUE"),
        (("--model-kwargs", "projektion=true"), "did you mean 'projection'"),
        (("--model-kwargs", "projection=yes"), "projection='yes' must be bool"),
        (("--model-kwargs", "num_classes=3"), "has an option of its own"),
        (("--model-kwargs", "name=x"), "unknown option"),
        (("--model-kwargs", 'depth={"a": 1}'), "depth={'a': 1} must be int"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_impossible_options(refused, theirs: Path, arguments: tuple[str, ...], says: str) -> None:
    out = theirs / "out.safetensors"
    assert says in refused("convert", theirs / "plain.pth", *RESNET20, "--out", out, *arguments)
    assert not out.exists()


def test_what_is_there_already(senet, refused, theirs: Path) -> None:
    out = theirs / "out.safetensors"
    assert senet("convert", theirs / "plain.pth", *RESNET20, "--out", out)[0] == 0
    before = out.read_bytes(), out.with_suffix(".json").read_bytes()
    assert "that is CHECKPOINT itself" in refused("convert", out, *RESNET20, "--out", out, "--to", "cifar")
    other = theirs / "other.safetensors"
    assert "a checkpoint of this package already" in refused("convert", out, *RESNET20, "--out", other)
    assert "out.json there describes another file" in refused(
        "convert", theirs / "plain.pth", *RESNET20, "--out", out, "--to", "cifar"
    )
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == before
    (theirs / "folder.safetensors").mkdir()
    for taken, says in (("folder.safetensors", "that is a folder"), ("no/out.safetensors", "there is no folder")):
        assert says in refused("convert", theirs / "plain.pth", *RESNET20, "--out", theirs / taken)


def test_our_own_checkpoint_says_itself_what_it_is_of(senet, refused, theirs: Path) -> None:
    small = create_model("cifar_resnet20", num_classes=3, in_channels=1, depth=1)
    torch.save(to_layout(small, "cifar"), theirs / "small.pth")
    (theirs / "three.txt").write_text("a\nb\nc\n")
    ours, again = theirs / "ours.safetensors", theirs / "again.safetensors"
    code, _, err = senet("convert", theirs / "small.pth", *RESNET20, "--out", ours, "--model-kwargs", "depth=1",
                         "--class-names", theirs / "three.txt", "--channel-order", "L", "--mean", 0.5,
                         "--std", 0.5)  # fmt: skip
    assert code == 0, err
    assert senet("convert", ours, *RESNET20, "--out", again, "--to", "cifar")[0] == 0
    given = to_layout(small, "cifar")
    assert all(torch.equal(tensor, given[key]) for key, tensor in load_file(again).items())
    message = refused("convert", ours, "--model", "cifar_resnet32", "--out", again, "--to", "cifar")
    assert "is of cifar_resnet20, not of cifar_resnet32" in message


@pytest.mark.parametrize("to", ["senet", "cifar"])
def test_no_space_for_it(refused, theirs: Path, to: str) -> None:
    """Whatever the file system says in the middle of it is told, and nothing is left there."""
    out = theirs / "out.safetensors"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = refused("convert", theirs / "plain.pth", *RESNET20, "--out", out, "--to", to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert f"{out}: can't be written" in message
    assert not [path.name for path in theirs.iterdir() if "out" in path.name]


def test_a_name_that_no_file_can_have(refused, theirs: Path) -> None:
    plain = theirs / "plain.pth"
    assert "ends in .safetensors" in refused("convert", plain, *RESNET20, "--out", "")
    out = theirs / f"{'x' * 300}.safetensors"
    assert f"{out}: File name too long" in refused("convert", plain, *RESNET20, "--out", out)


def test_refusals(refused, theirs: Path) -> None:
    plain, out = theirs / "plain.pth", theirs / "out.safetensors"
    assert "use the plain variant" in refused("convert", plain, *NETWORK, "--out", out)
    assert "ends in .safetensors" in refused("convert", plain, *NETWORK, "--out", theirs / "x.pth")
    assert "unknown layout" in refused("convert", plain, *NETWORK, "--out", out, "--to", "keras")
    assert "unknown layout" in refused("convert", plain, *NETWORK, "--out", out, "--layout", "keras")
    assert "unknown model" in refused("convert", plain, "--model", "resnet", "--out", out)
    assert "no such file" in refused("convert", theirs / "absent.pth", *NETWORK, "--out", out)
    (theirs / "three.txt").write_text("a\nb\nc\n")
    message = refused("convert", plain, "--model", "cifar_resnet20", "--num-classes", 10, "--out", out,
                      "--class-names", theirs / "three.txt")  # fmt: skip
    assert "3 names, and the network has 10 outputs" in message
    (theirs / "twice.txt").write_text("a\nb\na\n")
    message = refused(
        "convert", plain, "--model", "cifar_resnet20", "--out", out, "--class-names", theirs / "twice.txt"
    )
    assert "'a' is there twice" in message
    assert "checkpoint num_classes=10, model num_classes=3" in refused(
        "convert", plain, "--model", "cifar_resnet20", "--out", out, "--class-names", theirs / "three.txt"
    )
    assert not out.exists()
