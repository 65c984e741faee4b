"""`retrofit` on networks as people write them: what it keeps in all of them, and what it leaves out or refuses."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
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
    ByName,
    Closures,
    InSpace,
    Lazy,
    Loop,
    PastHooks,
    Quantizable,
    Recurrent,
    Residuals,
    WithTable,
    conv,
)

import senet
from senet.nn import PLACEMENTS, Attention
from senet.surgery import apply_sites


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


def gates(model: nn.Module) -> dict[str, Attention]:
    return {path: module for path, module in model.named_modules() if isinstance(module, Attention)}


def randomise_gates(model: nn.Module) -> None:
    for gate in gates(model).values():
        for parameter in gate.parameters():
            nn.init.normal_(parameter)


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
    assert [item.reason for item in again.skipped].count("carries attention already") >= len(report.inserted)
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
@pytest.mark.parametrize("name", ["residual units", "group norm", "frozen weights"])
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
    "children": (Loop, "runs all of its children itself: attention would run 2 times, not 1"),
    "named children": (lambda: Loop(lambda m: dict(m.named_children()).values()), "runs all of its children itself"),
    "_modules": (lambda: Loop(lambda m: m._modules.values()), "runs all of its children itself"),
    "modules": (lambda: Loop(lambda m: [c for c in m.modules() if c is not m]), "fails|children itself"),
    "count": (Counting, "the output changes"),
    "last child": (FromTheEnd, "runs all of its children itself"),
    "training alone": (LoopInTraining, "runs all of its children itself"),
    "number of modules": (Strict, "with attention there the network fails: too many values to unpack"),
    "forward and call": (ForwardAndCall, r"is run by \.forward\(\), which goes past hooks"),
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
    with pytest.raises(senet.SenetError, match=r"branches\.0 runs all of its children itself.*branches\.1 runs"):
        senet.retrofit(model)
    assert not gates(model)
    assert [site.path for site in senet.retrofit(model, where="branches.*.conv2").inserted] == [
        "branches.0.conv2",
        "branches.1.conv2",
    ]
    with pytest.raises(senet.SenetError, match=r"norm is run by \.forward\(\), which goes past hooks"):
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
    with pytest.raises(senet.SenetError, match="runs all of its children itself"):
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
    with pytest.raises(senet.SenetError, match=r"without weights yet \(conv1, norm1, .*run it once on a batch first"):
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
    with pytest.raises(senet.SenetError, match=r"builds layers at its first call \(conv\): run it once on a batch"):
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


# Compiled networks


def outer(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    compiled = torch.compile(model, backend="eager")
    return compiled, compiled


def inner(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    return torch.compile(model, backend="eager"), model


def in_place(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.compile(backend="eager")
    return model, model


def part(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    model.blocks[1].compile(backend="eager")
    return model, model


def place(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.blocks[0].norm2 = torch.compile(model.blocks[0].norm2, backend="eager")
    return model, model


def method(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model, model


def step(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    return torch.compile(lambda x: model(x), backend="eager"), model


@pytest.mark.parametrize("compiling", [outer, inner, in_place, part, place, method, step])
def test_compiled_networks_use_train_and_lose_their_gates(compiling: Callable[..., Any]) -> None:
    model = Residuals().train()
    run, given = compiling(model)
    original = run(IMAGES)
    original.sum().backward()
    keys = list(model.state_dict())
    report = senet.retrofit(given, example_inputs=IMAGES)
    assert [site.path for site in report.inserted] == ["blocks.0.norm2", "blocks.1.norm2"]
    assert torch.equal(run(IMAGES), original)
    run(IMAGES).square().sum().backward()
    learned = [p.grad is not None and bool(p.grad.any()) for gate in gates(model).values() for p in gate.parameters()]
    assert learned == [False, False, True, True] * 2  # at the start nothing passes the zeros of the second layer
    assert not senet.retrofit(given, example_inputs=IMAGES).inserted
    randomise_gates(model)
    assert not torch.allclose(run(IMAGES), original)
    assert [site.path for site in senet.remove(given).inserted] == ["blocks.0.norm2", "blocks.1.norm2"]
    assert torch.equal(run(IMAGES), original)
    assert list(model.state_dict()) == keys
    plain = Residuals()
    apply_sites(plain, report.inserted)
    assert len(gates(plain)) == 2
    assert len(senet.plan(given, where="blocks.1", example_inputs=IMAGES).inserted) == 1


def test_a_plan_leaves_compiled_code_alone() -> None:
    compilations = 0

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    model = torch.compile(Residuals().eval(), backend=backend)
    model(IMAGES)
    before = compilations
    senet.plan(model, example_inputs=IMAGES)
    model(IMAGES)
    assert compilations == before > 0


def test_sites_of_a_compiled_network_fit_under_their_old_names_too() -> None:
    [site, _] = senet.plan(Residuals(), example_inputs=IMAGES).inserted
    old = dataclasses.replace(site, path=f"_orig_mod.{site.path}")
    for model in (Residuals(), torch.compile(Residuals(), backend="eager")):
        apply_sites(model, [old])
        assert len(gates(model)) == 1


# Example inputs


def test_example_inputs_are_positional_or_by_name() -> None:
    for model in (WithTable(), ByName()):
        with pytest.raises(senet.SenetError, match="or a dict of arguments by name"):
            senet.plan(model)
    table = torch.ones(2, 7)
    by_name = senet.plan(WithTable(), example_inputs={"table": table, "image": IMAGES})
    assert by_name.inserted == senet.plan(WithTable(), example_inputs=[IMAGES, table, 2.0]).inserted
    assert by_name.inserted == senet.plan(WithTable(), example_inputs=(IMAGES, table)).inserted
    assert len(senet.plan(Residuals(), example_inputs=IMAGES).inserted) == 2
    for wrong in ("image", 3, {1: IMAGES}, iter([IMAGES])):
        with pytest.raises(senet.SenetError, match="give a tensor, a tuple of all positional arguments, or a dict"):
            senet.plan(Residuals(), example_inputs=wrong)
    with pytest.raises(senet.SenetError, match=r"can't run on no tensor"):
        senet.plan(Residuals(), example_inputs=())


# Networks without a place


def test_a_narrow_network_is_told_what_would_fit() -> None:
    model = InSpace(3, 1, width=8)
    with pytest.raises(
        senet.SenetError, match=r"InSpace has no unit .*reduction=16 leaves no hidden unit.*reduction=4 fits"
    ):
        senet.retrofit(model)
    assert not gates(model)
    assert len(senet.retrofit(model, senet.SE(reduction=4)).inserted) == 1
    assert not senet.retrofit(model).inserted  # it carries attention already, so there is nothing to tell
    with pytest.raises(senet.SenetError, match="without a module; choose another placement="):
        senet.retrofit(Recurrent(), placement="identity")


def test_a_part_that_is_too_narrow_is_skipped() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 32), nn.ReLU(), conv(32, 8), nn.ReLU())
    first, second = senet.retrofit(model), senet.retrofit(model)
    assert ([site.path for site in first.inserted], len(first.skipped)) == (["3"], 1)
    assert not second.inserted
    assert len(second.skipped) == 2


# Networks that surgery can't work on


def traced() -> nn.Module:
    return torch.jit.trace(Residuals().eval(), IMAGES)


def int8() -> nn.Module:
    model = Quantizable().eval()
    model.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    prepared = torch.ao.quantization.prepare(model)
    prepared(IMAGES)
    return torch.ao.quantization.convert(prepared)


def int8_graph() -> nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(Residuals().eval(), get_default_qconfig_mapping("x86"), (IMAGES,))
    prepared(IMAGES)
    return convert_fx(prepared)


def int8_linear() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(Residuals(), {nn.Linear})


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "scripted": (lambda: torch.jit.script(Residuals()), "scripted or traced.* retrofit the network, then script it"),
    "traced": (traced, "scripted or traced"),
    "int8": (int8, r"is quantized .* retrofit the network in floating point"),
    "int8 graph": (int8_graph, "is quantized"),
    "int8 layer": (int8_linear, "Residuals's head is quantized"),
    "data parallel": (lambda: nn.DataParallel(Residuals()), "retrofit the module, then wrap it"),
    "wrapped part": (lambda: nn.Sequential(nn.DataParallel(Residuals())), "Sequential's 0 .*, then wrap it"),
    "no module": (lambda: Residuals().forward, "is method, not a torch.nn.Module"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_scripted_quantized_and_wrapped_networks_are_refused(kind: str) -> None:
    build, reason = REFUSED[kind]
    for function in (senet.plan, senet.retrofit):
        with pytest.raises(senet.SenetError, match=reason):
            function(build(), example_inputs=IMAGES)


@pytest.mark.filterwarnings("ignore")
def test_networks_that_are_still_in_floating_point_are_taken() -> None:
    model = Quantizable().train()
    model.qconfig = torch.ao.quantization.get_default_qat_qconfig("x86")
    model = torch.ao.quantization.prepare_qat(model)
    assert len(senet.retrofit(model, example_inputs=IMAGES).inserted) == 1
    scripted_part = nn.Sequential(torch.jit.script(nn.Sequential(nn.ReLU())), Residuals())
    assert len(senet.retrofit(scripted_part, example_inputs=IMAGES).inserted) == 2


# Sites


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"attention": {"kind": "nope"}}, "nope"),
    "option": ({"attention": {"kind": "se", "size": 3}}, "size"),
    "path": ({"path": "blocks.9"}, "no module 'blocks.9'"),
    "container": ({"path": "blocks"}, "takes no further module"),
    "side": ({"side": "middle"}, "must be 'input' or 'output'"),
    "channels": ({"channels": 99}, "has 32 channels, not 99"),
    "narrow": ({"channels": 8, "path": "blocks.1"}, "no hidden unit"),
    "dimensions": ({"space": (4, 4, 4, 4)}, "ndim"),
    "twice": ({"path": "blocks.0.norm2", "channels": WIDTH}, "blocks.0.norm2 is listed twice"),
    "old name": ({"path": "_orig_mod.blocks.0.norm2", "channels": WIDTH}, "blocks.0.norm2 is listed twice"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_sites_are_applied_all_or_none(kind: str) -> None:
    change, message = WRONG[kind]
    model = Residuals()
    first, second = senet.plan(model, example_inputs=IMAGES).inserted
    keys, seed = list(model.state_dict()), torch.get_rng_state()
    with pytest.raises(senet.SenetError, match=message):
        apply_sites(model, [first, dataclasses.replace(second, **change)])
    assert list(model.state_dict()) == keys
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), seed)
    apply_sites(model, [first, second])
    with pytest.raises(senet.SenetError, match="has something called 'attention' already"):
        apply_sites(model, [second])


def test_sites_are_taken_back_if_a_module_refuses_its_layer() -> None:
    class Closed(nn.BatchNorm2d):
        def add_module(self, name: str, module: nn.Module | None) -> None:
            raise RuntimeError("closed")

    model = Residuals()
    sites = senet.plan(model, example_inputs=IMAGES).inserted
    model.blocks[1].norm2 = Closed(2 * WIDTH)
    with pytest.raises(RuntimeError, match="closed"):
        apply_sites(model, sites)
    assert not gates(model)
    assert not any(module._forward_hooks for module in model.modules())
