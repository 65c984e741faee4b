"""Loading from files and state dicts: what is recognised, what is refused, and that a refusal changes nothing."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peers import shared
from safetensors.torch import save_file
from torch import Tensor, nn

import senet
from senet.errors import CheckpointError, SenetError, UnknownNameError
from senet.weights import CheckpointMetadata, load_weights, read_tensors, to_layout, write_checkpoint

TINY = {"depths": (1, 1)}


def network(name: str = "se_resnet18_v1_5", **options: Any) -> nn.Module:
    return senet.create_model(name, **(TINY | options))


def cifar(**options: Any) -> nn.Module:
    return senet.create_model("cifar_resnet20", depth=1, **options)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    random = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1, generator=random)
    return model


def same(model: nn.Module, tensors: dict[str, Tensor]) -> bool:
    return all(torch.equal(t, tensors[key]) for key, t in model.state_dict().items())


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Load what must be refused; gives the message, once the network is seen to be untouched."""

    def refuse(model: nn.Module, source: Any, *, compare: bool = True, **options: Any) -> str:
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        with pytest.raises(CheckpointError) as caught:
            load_weights(model, source, **options)
        assert not compare or same(model, before)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refuse


@pytest.mark.parametrize(
    ("suffix", "layout"),
    [*((suffix, "timm") for suffix in (".pth", ".pt", ".th", ".bin", ".safetensors")), (".pth", "senet"),
     (".pth", "torchvision")],
)  # fmt: skip
def test_every_kind_of_file(tmp_path: Path, suffix: str, layout: str) -> None:
    model = randomised(network("resnet18_v1_5"))
    tensors = to_layout(model, layout)
    path = tmp_path / f"x{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    other = network("resnet18_v1_5")
    report = load_weights(other, path)
    assert report.layout in (layout, "torchvision")
    assert same(other, model.state_dict())


@pytest.mark.parametrize("wrap", [
    lambda t: {"state_dict": t, "epoch": 3},
    lambda t: {"model": {f"module.{k}": v for k, v in t.items()}},
    lambda t: OrderedDict((f"module._orig_mod.{k}", v) for k, v in t.items()),
    lambda t: {"state_dict": {f"model.{k}": v for k, v in t.items()}, "best": 0.5},
    lambda t: {k: v for k, v in t.items() if "num_batches" not in k},
    lambda t: {k: v.double() if v.is_floating_point() else v for k, v in t.items()},
], ids=["wrapped", "parallel", "compiled", "lightning", "uncounted", "double"])  # fmt: skip
def test_wrappers_prefixes_and_missing_counters(tmp_path: Path, wrap: Callable[[dict], dict]) -> None:
    model = randomised(network())
    torch.save(wrap(to_layout(model, "moskomule")), tmp_path / "x.pth")
    other = network()
    load_weights(other, tmp_path / "x.pth")
    assert same(other, model.state_dict())


def test_our_own_checkpoint_with_its_hash(tmp_path: Path, refusal: Callable[..., str]) -> None:
    model = randomised(cifar())
    description = CheckpointMetadata(model="cifar_resnet20", classes=("a",), preprocessing=model.spec.preprocessing)
    write_checkpoint(tmp_path / "x.safetensors", model.state_dict(), description)
    other = cifar()
    assert load_weights(other, tmp_path / "x.safetensors").layout == "senet"
    assert same(other, model.state_dict())
    content = bytearray((tmp_path / "x.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "x.safetensors").write_bytes(content)
    assert "its hash differs" in refusal(other, tmp_path / "x.safetensors")


@pytest.mark.parametrize("depth", [20, 32, 56])
def test_the_trained_cifar_resnets_are_recognised(depth: int) -> None:
    [file] = sorted(shared("weights").glob(f"cifar10_resnet{depth}-*.th"))
    model = senet.create_model(f"cifar_resnet{depth}")
    report = load_weights(model, file)
    assert report.layout == "cifar"
    theirs = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    assert report.loaded == len(theirs)
    assert torch.equal(model.stages["4"][1].branch.bn2.running_var, theirs["module.layer3.1.bn2.running_var"])


def test_a_network_on_meta_takes_weights_of_its_own_type() -> None:
    model = randomised(cifar())
    tensors = {k: v.double() for k, v in to_layout(model, "cifar").items() if v.is_floating_point()}
    with torch.device("meta"):
        other = cifar()
    load_weights(other, tensors)
    assert all(
        t.dtype == own.dtype for t, own in zip(other.state_dict().values(), model.state_dict().values(), strict=True)
    )
    other.eval()(torch.zeros(1, 3, 32, 32))
    tensors["conv1.weight"].zero_()
    assert other.stem[0].weight.any(), "the network must not share the caller's tensors"


MISFITS = {
    "reduction": ({"attention": senet.SE(8)}, {}, "checkpoint reduction=8, model reduction=16"),
    "rounding": ({"attention": senet.SE(rounding="timm")}, {}, r"checkpoint rounding='timm', .*SE\(rounding='timm'\)"),
    "no biases": ({"attention": senet.SE(bias=False)}, {}, r"no biases; build .* attention=senet.SE\(bias=False\)"),
    "biases": ({}, {"attention": senet.SE(bias=False)}, r"have biases; build .* attention=senet.SE\(bias=True\)"),
    "plain": ({"attention": None}, {}, "the network has SE blocks and the file has none; use the plain variant"),
    "attention": ({}, {"attention": None}, "the file has SE blocks and the network has none; use the se_ variant"),
    "classes": ({"num_classes": 7}, {}, "checkpoint num_classes=7, model num_classes=1000"),
    "channels": ({"in_channels": 1}, {}, "checkpoint in_channels=1, model in_channels=3"),
    "family": ({}, {"name": "mobilenet_v1", "depths": (1, 1)}, "Likely cause: the file is of another network family$"),
    "depth": ({"depths": (1, 2)}, {}, r"checkpoint depths=\(1, 2\), model depths=\(1, 1\)"),
}


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        *((case, "moskomule") for case in MISFITS),
        *((c, "senet") if c == "depth" else pytest.param(c, "senet", marks=pytest.mark.slow) for c in MISFITS),
    ],
)
def test_a_misfit_says_its_likely_cause(case: str, layout: str, refusal: Callable[..., str]) -> None:
    theirs, ours, cause = MISFITS[case]
    message = refusal(network(**ours), to_layout(network(**theirs), layout))
    assert re.search(cause, message), message
    assert f"doesn't fit {ours.get('name', 'se_resnet18_v1_5')}" in message


@pytest.mark.parametrize("theirs", [True, False])
def test_a_misfit_of_shortcuts(refusal: Callable[..., str], theirs: bool) -> None:
    tensors = to_layout(randomised(cifar(projection=theirs)), "senet")
    assert f"build the network with projection={theirs}" in refusal(cifar(projection=not theirs), tensors)


def test_a_misfit_says_the_key_and_both_shapes(refusal: Callable[..., str]) -> None:
    tensors = to_layout(network(), "moskomule")
    tensors["layer2.0.conv2.weight"] = torch.zeros(1, 2, 3, 4)
    message = refusal(network(), tensors)
    assert (
        "layer2.0.conv2.weight (here stages.3.0.branch.conv2.weight) is (1, 2, 3, 4) in the file and (128," in message
    )
    tensors = to_layout(network(), "moskomule") | {"layer2.0.conv9.gain": torch.zeros(1)}
    assert "layer2.0.conv9.gain has no counterpart in the network" in refusal(network(), tensors)
    tensors = to_layout(network(), "moskomule")
    del tensors["bn1.running_mean"]
    assert "stem.0.1.running_mean is missing in the file" in refusal(network(), tensors)
    tensors["bn1.running_mean"] = torch.zeros(64, dtype=torch.int64)
    assert "is torch.int64 in the file" in refusal(network(), tensors)


def test_what_names_cannot_say_is_checked(refusal: Callable[..., str]) -> None:
    plain = to_layout(network("resnet50_v1_5"), "timm")
    assert "stride_first=False, this network True" in refusal(network("resnet50"), plain)
    small, caffe_pool = to_layout(network("resnet18_v1_5"), "timm"), network("resnet18", stride_first=False)
    assert "ceil_pool=False, this network True" in refusal(caffe_pool, small)
    attending = to_layout(network(), "moskomule")
    assert "placement='standard', this network 'identity'" in refusal(network(placement="identity"), attending)
    assert "attention.gate='sigmoid'" in refusal(network(attention=senet.SE(gate="hard-sigmoid")), attending)
    assert "attention.squeeze='mean'" in refusal(network(attention=senet.SE(squeeze="max")), attending)


@pytest.mark.parametrize("theirs", [True, False])
def test_the_norm_of_a_preactivation_network_may_be_elsewhere(refusal: Callable[..., str], theirs: bool) -> None:
    peer, ours = (senet.create_model("se_cifar_preresnet20", stem_norm=stem) for stem in (theirs, not theirs))
    assert f"build the network with stem_norm={theirs}" in refusal(ours, to_layout(peer, "senet"))


def test_timms_own_small_legacy_networks_want_their_relu(refusal: Callable[..., str]) -> None:
    tensors = pytest.importorskip("timm").create_model("legacy_seresnet18").state_dict()
    assert "branch_relu=True, this network False" in refusal(senet.create_model("se_resnet18"), tensors)
    with pytest.raises(SenetError, match="branch_relu=False, this network True"):
        to_layout(network("se_resnet18_v1_5", attention=senet.SE(rounding="timm"), branch_relu=True), "timm")


def test_unknown_names(refusal: Callable[..., str]) -> None:
    assert "its weight names (a.b" in refusal(cifar(), {"a.b": torch.zeros(1)})
    assert "in the layout 'caffe'" in refusal(cifar(), to_layout(cifar(), "cifar"), layout="caffe")
    with pytest.raises(UnknownNameError, match="did you mean 'timm'"):
        load_weights(cifar(), {"a": torch.zeros(1)}, layout="tim")
    with pytest.raises(UnknownNameError, match="unknown layout"):
        to_layout(cifar(), "keras")


def test_no_counterpart() -> None:
    with pytest.raises(SenetError, match="cifar_resnet20 has no counterpart in timm"):
        to_layout(cifar(), "timm")
    with pytest.raises(SenetError, match=r"4 of 64 in .* build it with attention=senet.SE\(rounding='timm'\)"):
        to_layout(network(), "timm")
    with pytest.raises(SenetError, match="no counterpart in caffe"):
        to_layout(senet.create_model("se_resnet50", device="meta"), "caffe")


class Malicious:
    """Unpickling it creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def _pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("save", [torch.save, _pickle])
@pytest.mark.parametrize("suffix", [".pth", ".pkl", ".bin"])
def test_a_malicious_file_is_refused_and_nothing_runs(
    tmp_path: Path, refusal: Callable[..., str], save: Callable[..., Any], suffix: str
) -> None:
    target, path = tmp_path / "created", tmp_path / f"x{suffix}"
    save({"fc.weight": torch.zeros(1), "more": Malicious(target)}, path)
    message = refusal(cifar(), path)
    assert str(path) in message
    assert "could run code" in message or "not a complete PyTorch file" in message
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".caffemodel"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04" + b"\0" * 100])
def test_a_file_of_something_else(tmp_path: Path, refusal: Callable[..., str], suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    assert str(path) in refusal(cifar(), path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, refusal: Callable[..., str], suffix: str, share: float) -> None:
    path = tmp_path / f"x{suffix}"
    tensors = dict(cifar().state_dict())
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "not a complete" in refusal(cifar(), path)


def test_contents_that_are_no_weights(tmp_path: Path, refusal: Callable[..., str]) -> None:
    def saved(content: Any) -> Path:
        torch.save(content, tmp_path / "x.pth")
        return tmp_path / "x.pth"

    tensors = to_layout(cifar(), "cifar")
    assert "contains a list, not a state dict" in refusal(cifar(), saved([1, 2]))
    assert "epoch is a int, not a tensor" in refusal(cifar(), saved(tensors | {"epoch": 3}))
    assert "no weights in it" in refusal(cifar(), saved({}))
    assert "sparse or quantized" in refusal(cifar(), saved({"conv1.weight": torch.zeros(2, 2).to_sparse()}))
    for value in (float("nan"), float("inf"), -float("inf")):
        tensors["linear.bias"] = torch.tensor([value] * 10)
        assert "linear.bias has non-finite values" in refusal(cifar(), saved(tensors))
    assert "no such file" in refusal(cifar(), tmp_path / "absent.pth")
    (tmp_path / "x.onnx").touch()
    assert "weights are read from" in refusal(cifar(), tmp_path / "x.onnx")


def test_contents_that_are_hardly_weights(tmp_path: Path, refusal: Callable[..., str]) -> None:
    def saved(**changed: Any) -> Path:
        torch.save(to_layout(cifar(), "cifar") | changed, tmp_path / "x.pth")
        return tmp_path / "x.pth"

    for double in (torch.full((10,), 1e300, dtype=torch.float64), torch.full((10,), -4e38, dtype=torch.float64)):
        message = refusal(cifar(), saved(**{"linear.bias": double}))
        assert "linear.bias (here head.fc.bias) has values out of the range of torch.float32" in message
    assert "out of the range of torch.float16" in refusal(
        cifar().half(), saved(**{"linear.bias": torch.full((10,), 7e4)})
    )
    assert "bn1.running_var (here stem.1.running_var) has negative variances" in refusal(
        cifar(), saved(**{"bn1.running_var": -torch.ones(16)})
    )
    assert "(here head.fc.bias) has no values" in refusal(
        cifar(), saved(**{"linear.bias": torch.empty(10, device="meta")})
    )
    with torch.device("meta"):
        assert "has no values" in refusal(cifar(), saved(), compare=False)
    hollow = {key: torch.empty_like(t, device="meta") for key, t in to_layout(cifar(), "cifar").items()}
    assert "has no values" in refusal(cifar(), hollow)
    assert "'' is not a valid weight name" in refusal(cifar(), saved(**{"": torch.zeros(1)}))
    assert r"'a\nb' is not a valid weight name" in refusal(cifar(), saved(**{"a\nb": torch.zeros(1)}))
    endless: dict[str, Any] = {}
    endless["model"] = {"net": endless}
    torch.save(endless, tmp_path / "x.pth")
    assert "no weights in it" in refusal(cifar(), tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Path(), protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "it would call" not in refusal(cifar(), tmp_path / "x.pth")


def test_small_floats_are_read() -> None:
    tensors = to_layout(cifar(), "cifar")
    tensors["linear.bias"] = torch.arange(10.0).to(torch.float8_e4m3fn)
    model = cifar()
    load_weights(model, tensors)
    assert torch.equal(model.head.fc.bias, torch.arange(10.0))


def test_large_numbers_are_finite() -> None:
    """Their sum overflows, they don't."""
    tensors = to_layout(cifar(), "cifar")
    tensors["linear.bias"] = torch.full((10,), 3e38)
    load_weights(cifar(), tensors)


def test_transfer_leaves_the_head_and_adapts_the_first_convolution() -> None:
    tensors = {k: v.clone() for k, v in to_layout(randomised(cifar()), "cifar").items()}
    grey, many, bare = cifar(num_classes=3, in_channels=1), cifar(in_channels=5), cifar(num_classes=0)
    head = grey.head.fc.weight.clone()
    with pytest.warns(UserWarning, match=r"head.fc.weight, head.fc.bias: newly initialized"):
        report = load_weights(grey, tensors, transfer=True)
    assert report.newly_initialized == ("head.fc.weight", "head.fc.bias")
    assert torch.equal(grey.head.fc.weight, head)
    weight = tensors["conv1.weight"]
    assert torch.equal(grey.stem[0].weight, weight.sum(1, keepdim=True))
    assert load_weights(many, tensors, transfer=True).newly_initialized == ()
    assert torch.allclose(many.stem[0].weight, weight[:, [0, 1, 2, 0, 1]] * 3 / 5)
    assert load_weights(bare, tensors, transfer=True).newly_initialized == ()


def test_reading_gives_plain_names(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(1)}}, tmp_path / "x.pth")
    assert list(read_tensors(tmp_path / "x.pth")) == ["a"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_file_without_suffix(tmp_path: Path, *, zipped: bool) -> None:
    network = senet.create_model("cifar_resnet20")
    torch.save(network.state_dict(), tmp_path / "weights", _use_new_zipfile_serialization=zipped)
    assert senet.load_weights(senet.create_model("cifar_resnet20"), tmp_path / "weights").loaded > 100


@pytest.mark.parametrize("text", ["<html>404</html>", "version https://git-lfs.github.com/spec/v1", '{"a": 1}'])
def test_a_page_or_pointer_in_place_of_weights(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.pth").write_text(text)
    with pytest.raises(CheckpointError, match="download the file itself"):
        load_weights(senet.create_model("cifar_resnet20"), tmp_path / "x.pth")
