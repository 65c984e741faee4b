"""`retrofit` on networks as people write them: what it keeps in all of them, and what it leaves out or refuses."""

from __future__ import annotations

import contextlib
import copy
import io
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from user_networks import (
    IMAGES,
    NETWORKS,
    WIDTH,
    Branches,
    Closures,
    Lazy,
    Loop,
    PastHooks,
    Residuals,
    conv,
    gates,
    randomise_gates,
)

import senet
from senet.nn import PLACEMENTS


def call(model: nn.Module, example: Any) -> list[Tensor]:
    """The tensors that a network gives."""
    if isinstance(example, dict):
        output = model(**example)
    else:
        output = model(*example) if isinstance(example, tuple) else model(example)
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def build(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    network, example, _ = NETWORKS[name]
    return network(), example


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def runs(model: nn.Module, example: Any) -> Counter[str]:
    """How often each module's and each gate's `forward` runs in one call."""
    counts: Counter[str] = Counter()

    def counted(forward: Callable[..., Any], path: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            counts[path] += 1
            return forward(*args, **kwargs)

        return run

    watched = {p: model.get_submodule(p) for gate in gates(model) for p in (gate, gate.rpartition(".")[0])}
    for path, module in watched.items():
        module.forward = counted(module.forward, path)
    call(model, example)
    for module in watched.values():
        del module.forward
    return counts


# What holds in every network


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays_gates_run_once_and_learn(name: str) -> None:
    model, example = build(name)
    with torch.no_grad():
        before = call(model.eval(), example)
    report = senet.retrofit(model, example_inputs=example)
    assert len(report.inserted) == len(gates(model)) == NETWORKS[name][2]
    with torch.no_grad():
        assert equal(call(model, example), before)
        counts = runs(model, example)
    assert all(counts[gate] == counts[gate.rpartition(".")[0]] > 0 for gate in gates(model))

    outputs = call(model.train(), example)
    sum(output.float().square().sum() for output in outputs if output.requires_grad).backward()
    for path, gate in gates(model).items():
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in gate.parameters()), path


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_second_calls_and_removal(name: str) -> None:
    model, example = build(name)
    model.eval()
    keys, hooks = list(model.state_dict()), [len(m._forward_hooks) for m in model.modules()]
    with torch.no_grad():
        before = call(model, example)
    copies = _copies(model)
    report = senet.retrofit(model, example_inputs=example)
    keys_with_gates = list(model.state_dict())
    again = senet.retrofit(model, example_inputs=example)
    assert not again.inserted
    assert [item.reason for item in again.skipped].count("already has attention") >= len(report.inserted)
    assert list(model.state_dict()) == keys_with_gates

    randomise_gates(model)
    with torch.no_grad():
        expected = call(model, example)
        assert not equal(expected, before)
        for copied in _copies(model):
            assert equal(call(copied, example), expected)
        assert len(_copies(model)) == len(copies)  # what could be copied before can be copied now
        assert len(senet.remove(model).inserted) == len(report.inserted)
        assert equal(call(model, example), before)
    assert list(model.state_dict()) == keys
    assert [len(m._forward_hooks) for m in model.modules()] == hooks


def _copies(model: nn.Module) -> list[nn.Module]:
    """By `deepcopy` and by `torch.save`, as far as torch can; not of functions, which hold the original's modules."""
    found = []
    for way in (copy.deepcopy, _saved):
        if not any(isinstance(module, Closures) for module in model.modules()):
            with contextlib.suppress(RuntimeError):  # old weight norm can't be copied, new weight norm can't be saved
                found.append(way(model))
    return found


def _saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("placement", sorted(PLACEMENTS))
@pytest.mark.parametrize("name", ["residual blocks", "group norm", "frozen weights"])
def test_a_second_call_inserts_nothing_whatever_the_placement(name: str, placement: str) -> None:
    model, example = build(name)
    assert senet.retrofit(model, placement=placement, example_inputs=example).inserted
    keys = list(model.state_dict())
    assert not senet.retrofit(model, placement=placement, example_inputs=example).inserted
    if placement != "identity":  # a gate on the shortcut leaves the branch free
        assert not senet.retrofit(model, example_inputs=example).inserted
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("where", ["blocks.*.conv1", nn.ReLU, nn.Conv2d, nn.Linear, lambda path, _: path == "stem"])
def test_a_second_call_finds_the_same_modules(where: Any) -> None:
    model = nn.Sequential(conv(3, WIDTH), nn.ReLU(), conv(WIDTH, WIDTH), nn.ReLU(), nn.Conv2d(WIDTH, 3, 1))
    model = Residuals() if isinstance(where, str) or (callable(where) and not isinstance(where, type)) else model
    if where is nn.Linear:
        model[4] = nn.Linear(16, 16)  # of the maps' rows
    first = senet.retrofit(model, where=where, example_inputs=IMAGES)
    second = senet.retrofit(model, where=where, example_inputs=IMAGES)
    assert len(first.inserted) == len(gates(model)) > 0
    assert not second.inserted


# What is left out


class Counting(nn.Module):
    """Divides by the number of its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x)) / len(list(self.modules()))


class FromTheEnd(nn.Module):
    """Takes its last child, whatever that is."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(list(self.children())[-1](F.relu(self.conv1(x))))


class LoopInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self.children()) if self.training else (self.conv1, self.conv2):
            x = F.leaky_relu(layer(x), 0.1)
        return x * 1.5


class Strict(nn.Module):
    """Expects no other module than its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        _, layer = self.modules()
        return torch.tanh(layer(x))


class ForwardAndCall(nn.Module):
    """Calls its convolution once as a module and once by `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.relu(self.conv.forward(x)))


class Good(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = conv(WIDTH, WIDTH), nn.BatchNorm2d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


SPOILT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "children": (Loop, "runs all its children itself, so attention would run 2 times, not 1"),
    "named children": (lambda: Loop(lambda m: dict(m.named_children()).values()), "runs all its children itself"),
    "_modules": (lambda: Loop(lambda m: m._modules.values()), "runs all its children itself"),
    "modules": (lambda: Loop(lambda m: [c for c in m.modules() if c is not m]), "fails|children itself"),
    "count": (Counting, "the output changes"),
    "last child": (FromTheEnd, "runs all its children itself"),
    "training alone": (LoopInTraining, "runs all its children itself"),
    "number of modules": (Strict, "with attention there, the network fails: too many values to unpack"),
    "forward and call": (ForwardAndCall, r"is called by \.forward\(\), which skips hooks"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_branch_that_attention_would_change_is_skipped_and_the_rest_stays(kind: str) -> None:
    torch.manual_seed(0)
    branch, reason = SPOILT[kind]
    model = Branches(Good(), branch(), Good())
    twin, keys = copy.deepcopy(model), list(model.state_dict())
    planned = senet.plan(model, example_inputs=IMAGES)
    assert list(model.state_dict()) == keys
    assert senet.retrofit(model, example_inputs=IMAGES) == planned
    assert [site.path for site in planned.inserted] == ["branches.0.norm", "branches.2.norm"]
    [skipped] = planned.skipped
    assert re.search(reason, skipped.reason)
    for training in (False, True):
        outputs = []
        for network in (model, twin):
            torch.manual_seed(1)
            outputs.append(network.train(training)(IMAGES))
        assert torch.equal(*outputs)


def test_if_every_branch_is_left_out_the_reasons_are_told() -> None:
    model = Branches(Loop(), Loop())
    with pytest.raises(senet.SenetError, match=r"branches\.0 runs all its children itself.*branches\.1 runs"):
        senet.retrofit(model)
    assert not gates(model)
    assert [site.path for site in senet.retrofit(model, where="branches.*.conv2").inserted] == [
        "branches.0.conv2",
        "branches.1.conv2",
    ]
    with pytest.raises(senet.SenetError, match=r"norm is called by \.forward\(\), which skips hooks"):
        senet.retrofit(PastHooks())


def test_a_network_that_differs_from_run_to_run_is_compared_by_its_runs_alone() -> None:
    class Noisy(nn.Module):
        def __init__(self, branch: nn.Module) -> None:
            super().__init__()
            self.net, self.lock = Branches(branch), Draws()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * self.lock.next()

    report = senet.retrofit(Noisy(Good()), example_inputs=IMAGES)
    assert [site.path for site in report.inserted] == ["net.branches.0.norm"]
    with pytest.raises(senet.SenetError, match="runs all its children itself"):
        senet.retrofit(Noisy(Loop()), example_inputs=IMAGES)


class Draws:
    """Numbers that no seed repeats, and that a copy of their network shares."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0

    def next(self) -> float:
        self.count += 1
        return 1 / self.count


# What `plan` and `retrofit` leave alone


class Restless(nn.Module):
    """Changes whatever it can in each forward, also in evaluation mode."""

    def __init__(self, by_numbers: bool) -> None:
        super().__init__()
        self.net, self.by_numbers, self.calls = Branches(Good(), Good()), by_numbers, 0
        self.seen: list[Tensor] = []
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        self.replaced = self.replaced + 1
        self.net.branches[0].norm.running_mean.mul_(0.5)
        self.net.head.weight.data.clamp_(-0.01, 0.01)
        if self.by_numbers and x.mean() > 100:  # no run without numbers
            x = -x
        noise = random.random() + np.random.rand() + torch.rand(())
        x = self.net(x) * noise
        self.seen.append(x)
        return x


@pytest.mark.parametrize("by_numbers", [False, True])
def test_nothing_of_the_network_or_the_process_changes(by_numbers: bool) -> None:
    model = Restless(by_numbers).train()
    model(IMAGES)
    before, objects = copy.deepcopy(model.state_dict()), {name: id(b) for name, b in model.named_buffers()}
    senet.plan(model)
    seeds = (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # type: ignore[index]
    report = senet.retrofit(model)
    assert [site.path for site in report.inserted] == ["net.branches.0.norm", "net.branches.1.norm"]
    assert seeds == (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # type: ignore[index]
    senet.remove(model)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert {name: id(buffer) for name, buffer in model.named_buffers()} == objects
    assert (model.calls, len(model.seen)) == (1, 1)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("function", [senet.plan, senet.retrofit])
@pytest.mark.parametrize("example", [None, IMAGES[:, :1], IMAGES])
def test_a_lazy_network_stays_lazy_and_is_refused(function: Callable[..., Any], example: Tensor | None) -> None:
    model = Lazy()
    with pytest.raises(senet.SenetError, match=r"uninitialized layers \(conv1, norm1, .*run it once on a batch first"):
        function(model, example_inputs=example)
    assert isinstance(model.conv1, nn.LazyConv2d)
    images = torch.randn(2, 4, 16, 16)
    assert model(images).shape == (2, 5)
    assert senet.retrofit(model, example_inputs=images).inserted


class BuiltAtFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv(3, WIDTH), None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        if self.conv is None:
            self.conv = conv(WIDTH, WIDTH).to(x.device)
        return F.relu(x + self.conv(x))


def test_a_network_that_builds_its_layers_at_its_first_call_is_told() -> None:
    model = BuiltAtFirst()
    with pytest.raises(senet.SenetError, match=r"creates layers at its first call \(conv\): run it once on a batch"):
        senet.retrofit(model, example_inputs=IMAGES)
    assert model.conv is None
    model(IMAGES)
    assert [site.path for site in senet.retrofit(model, example_inputs=IMAGES).inserted] == ["conv"]


def test_gates_inserted_in_inference_mode_can_learn() -> None:
    model = Residuals()
    with torch.inference_mode():
        assert len(senet.retrofit(model, example_inputs=IMAGES).inserted) == 2
    model(IMAGES).square().sum().backward()
    assert all(gate.fc2.bias.grad.any() for gate in gates(model).values())
