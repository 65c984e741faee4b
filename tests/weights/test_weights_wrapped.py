"""Networks inside compiled, parallel and averaged ones: weights go in and out as if nothing lay around them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import senet
from senet.errors import CheckpointError
from senet.preprocessing import CIFAR
from senet.weights import CheckpointMetadata, load_weights, to_layout, write_checkpoint

OPTIONS = {"depth": 1, "num_classes": 3, "projection": True, "attention": senet.SE(bias=False)}


def network(seed: int = 0, **options: Any) -> nn.Module:
    model = senet.create_model("se_cifar_resnet20", **OPTIONS | options)
    random = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1, generator=random)
    return model


class Distributed(nn.Module):
    """Built like DistributedDataParallel, which needs a process group."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("rank", torch.zeros(1), persistent=False)


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")


def child(wrap: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    """Wrap a stage and, inside it, a convolution."""

    def wrapped(model: nn.Module) -> nn.Module:
        unit = model.stages["2"][0]
        unit.branch.conv1 = wrap(unit.branch.conv1)
        model.stages["3"] = wrap(model.stages["3"])
        return model

    return wrapped


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "nothing": lambda model: model,
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "distributed": Distributed,
    "averaged": AveragedModel,
    "compiled parallel": lambda model: compiled(nn.DataParallel(model)),
    "parallel compiled": lambda model: nn.DataParallel(compiled(model)),
    "four times": lambda model: Distributed(nn.DataParallel(compiled(nn.DataParallel(model)))),
    "compiled children": child(compiled),
    "parallel children": child(nn.DataParallel),
    "compiled with compiled children": lambda model: compiled(child(compiled)(model)),
    "parallel with compiled children": lambda model: nn.DataParallel(child(compiled)(model)),
    "compiled stem": lambda model: (setattr(model, "stem", compiled(model.stem)), model)[1],
}


NAMES = list(WRAPPERS)
QUICK = ("compiled", "averaged", "four times", "compiled with compiled children")
"""One wrapper of each kind: of one network, with a counter beside it, several, around parts."""

EACH = [pytest.param(wrap, id=n, marks=() if n in QUICK else pytest.mark.slow) for n, wrap in WRAPPERS.items()]


@pytest.mark.parametrize(
    ("out_of", "into"),
    [
        *((name, "nothing") for name in NAMES),
        *(("nothing", name) for name in NAMES),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in pairwise(NAMES)),
    ],
)
def test_weights_go_from_any_into_any(out_of: str, into: str) -> None:
    source, plain = network(1), network(2)
    expected = {key: tensor.clone() for key, tensor in source.state_dict().items()}
    keys = list(plain.state_dict())
    wrapped_source, target = WRAPPERS[out_of](source), WRAPPERS[into](plain)
    report = load_weights(target, wrapped_source.state_dict())
    assert report.layout == "senet"
    values = list(target.state_dict().values())[-len(keys) :]  # what an average counts stands before
    assert all(torch.equal(expected[key], value) for key, value in zip(keys, values, strict=True))


@pytest.mark.parametrize("wrap", EACH)
def test_files_of_other_libraries_and_layouts_too(wrap: Any, tmp_path: Path) -> None:
    source = network(1)
    theirs = to_layout(source, "moskomule")
    torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in theirs.items()}}, tmp_path / "x.pth")
    target = wrap(network(2))
    report = load_weights(target, tmp_path / "x.pth")
    assert report.layout == "moskomule"
    again = to_layout(target, "moskomule")
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("wrap", EACH)
def test_reports_and_errors_have_the_plain_networks_names(wrap: Any) -> None:
    other = network(1, num_classes=5)
    with pytest.warns(UserWarning, match=r"^head\.fc\.weight, head\.fc\.bias: newly initialized"):
        report = load_weights(wrap(network(2)), other.state_dict(), transfer=True)
    assert report.newly_initialized == ("head.fc.weight", "head.fc.bias")
    model = wrap(network(2))
    before = [tensor.clone() for tensor in model.state_dict().values()]
    state = dict(network(1).state_dict()) | {"stages.3.0.branch.conv1.weight": torch.ones(1)}
    with pytest.raises(
        CheckpointError, match=r"doesn't fit se_cifar_resnet20: stages\.3\.0\.branch\.conv1\.weight is \(1,"
    ):
        load_weights(model, state)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))


@pytest.mark.parametrize("wrap", [WRAPPERS["compiled"], WRAPPERS["compiled stem"], WRAPPERS["compiled children"]])
def test_the_first_convolution_is_found_and_adapted(wrap: Any) -> None:
    given = network(1)
    target = wrap(network(2, in_channels=1))
    load_weights(target, given.state_dict(), transfer=True)
    stem: Tensor = next(t for key, t in target.state_dict().items() if "stem" in key and key.endswith("0.weight"))
    torch.testing.assert_close(stem, given.stem[0].weight.sum(1, keepdim=True))


def test_a_compiled_network_computes_with_the_new_weights() -> None:
    source, target = network(1).eval(), compiled(network(2).eval())
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(target(x), source(x))
        load_weights(target, source.state_dict())
        torch.testing.assert_close(target(x), source(x))


def test_a_part_of_the_users_own_called_module_is_no_wrapper() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.head = nn.Linear(2, 3)

    source, target = Own(), Own()
    load_weights(target, source.state_dict())
    assert all(torch.equal(t, source.state_dict()[key]) for key, t in target.state_dict().items())
    load_weights(compiled(Own()), nn.DataParallel(source).state_dict())


def test_a_checkpoint_written_of_a_wrapped_network_loads(tmp_path: Path) -> None:
    for wrap in (WRAPPERS["compiled"], WRAPPERS["parallel"], WRAPPERS["parallel with compiled children"]):
        model = network(1)
        options = OPTIONS | {"attention": {"kind": "se", "bias": False}}
        described = CheckpointMetadata(
            model="se_cifar_resnet20", options=options, classes=("a", "b", "c"), preprocessing=CIFAR
        )
        expected = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        write_checkpoint(tmp_path / "best.safetensors", wrap(model).state_dict(), described)
        found = senet.load_model(tmp_path).model.state_dict()
        assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
