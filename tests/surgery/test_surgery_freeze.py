"""`freeze` and `prune`: gates become constants, constants become weights, and the report says what it cost."""

from __future__ import annotations

import copy
import functools
import json
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import senet
from senet.errors import SenetError
from senet.gates.measuring import drift_between, gates
from senet.gates.statistics import GateStatistics
from senet.nn import Attention, ConstantGate, SqueezeExcite

FAMILIES: dict[str, tuple[int, dict[str, Any]]] = {
    "se_resnet18": (0, {"depths": (2, 1)}),
    "se_cifar_preresnet20": (0, {"depth": 2}),
    "se_mobilenet_v1_025": (0, {"depths": (1, 2, 1)}),
    "se_shufflenet_v1_g3": (0, {"depths": (2, 1)}),
    "se_bn_inception": (2, {}),
}
"""Name: how many gates can't be folded, since their map is needed elsewhere too, and options that make it small."""


def trained(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return randomised(senet.create_model(name, num_classes=10, **options))


def randomised(model: nn.Module) -> nn.Module:
    """A network in float64 in which nothing is at its start and each gate varies from image to image."""
    model = model.double().eval()
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor.data, 0.5, 1.5) if "var" in key else nn.init.normal_(tensor.data, 0.4, 0.3)
    return model


def images(model: nn.Module, count: int = 3, batches: int = 2) -> list[Tensor]:
    side = 16 if model.spec.preprocessing.size[0] == 32 else 64
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, side, side, dtype=torch.float64, generator=draw) for _ in range(batches)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_frozen_network_is_the_one_with_constant_gates(name: str) -> None:
    unfolded, options = FAMILIES[name]
    model = trained(name, **options)
    batches = images(model)
    # By hand: each gate's average over all six images, multiplied at its place.
    means: dict[str, list[Tensor]] = {path: [] for path in gates(model)}
    by_hand = copy.deepcopy(model)
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, path=path: means[path].append(m.gate(args[0])))
        for path, layer in gates(by_hand).items()
    ]
    before = torch.cat([by_hand(batch) for batch in batches]).detach()
    for hook in hooks:
        hook.remove()
    for path, layer in gates(by_hand).items():
        mean = torch.cat(means[path]).mean(0).flatten().detach()
        by_hand.get_submodule(path.rpartition(".")[0])._modules[path.rpartition(".")[2]] = ConstantGate(mean)
        assert isinstance(layer, Attention)
    expected = torch.cat([by_hand(batch) for batch in batches]).detach()

    report = senet.freeze(model, batches)
    found = torch.cat([model(batch) for batch in batches]).detach()
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
    assert not torch.equal(found, before)
    drift = float((found - before).square().mean().sqrt() / before.square().mean().sqrt())
    assert report.drift == pytest.approx(drift, rel=1e-6)
    assert sum(not gate.folded_into for gate in report.gates) == unfolded
    constants = [m for m in model.modules() if isinstance(m, Attention)]
    assert len(constants) == unfolded
    assert all(isinstance(m, ConstantGate) for m in constants)


def test_what_is_left_is_the_plain_network() -> None:
    model = trained("se_resnet18", depths=(2, 2))
    report = senet.freeze(model, images(model))
    plain = senet.create_model("resnet18", num_classes=10, depths=(2, 2)).double().eval()
    plain.load_state_dict(model.state_dict())  # strict
    [batch, _] = images(model)
    assert torch.equal(plain(batch), model(batch))
    assert report.params_saved == sum(2 * (2 * c * (c // 16) + c + c // 16) for c in (64, 128)) == 5528
    assert "4 of 4 gates frozen: 5,528 parameters" in str(report)
    assert json.loads(report.to_json())["gates"][0]["folded_into"] == ["stages.2.0.branch.bn2"]


def test_a_retrofitted_network_is_frozen_back_to_its_own_keys() -> None:
    model = trained("resnet18", depths=(1, 1)).float()
    keys = list(model.state_dict())
    senet.retrofit(model)
    for layer in gates(model).values():
        nn.init.normal_(layer.fc2.weight, 0, 0.3)
    batches = [batch.float() for batch in images(model)]
    report = senet.freeze(model, batches)
    assert list(model.state_dict()) == keys
    assert not any(m._forward_hooks for m in model.modules())
    assert 0 < report.drift < 1
    assert not report.to_dict()["gates"][0]["path"].endswith("bn2")


def test_a_constant_gate_freezes_without_drift() -> None:
    model = trained("se_resnet18", depths=(1, 1))
    for layer in gates(model).values():
        nn.init.zeros_(layer.fc2.weight)
    report = senet.freeze(model, [(batch, torch.zeros(3)) for batch in images(model)])
    assert report.drift < 1e-12
    assert report.agreement == 1
    assert all(gate.spread < 1e-12 and gate.drift < 1e-12 for gate in report.gates)


def test_modes_and_hooks_are_returned() -> None:
    model = trained("se_cifar_resnet20").train()
    model.stem.eval()
    senet.freeze(model, images(model))
    assert model.training
    assert model.stages.training
    assert not model.stem.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_statistics_of_batches_are_those_of_the_whole() -> None:
    torch.manual_seed(0)
    gate = torch.rand(50, 7, 1, 1) * 1e-3 + 1e3  # a large mean must not cancel
    statistics = GateStatistics(7)
    for piece in gate.split([1, 20, 29]):
        statistics.add(piece, len(piece))
    exact = gate.double().flatten(1)
    assert torch.allclose(statistics.mean, exact.mean(0), rtol=1e-12)
    assert statistics.spread == pytest.approx(float(exact.var(0, unbiased=False).mean().sqrt()), rel=1e-9)


@pytest.mark.parametrize(("budget", "kept"), [({"params": 10**9}, 3), ({"params": 0}, 0), ({"drift": 1e9}, 0)])
def test_extreme_budgets(budget: dict[str, float], kept: int) -> None:
    model = trained("se_cifar_resnet20", depth=1)
    report = senet.prune(model, images(model), budget)
    assert len(gates(model)) == kept
    assert report.budget_met


def test_prune_takes_the_calmest_gates_first() -> None:
    model = trained("se_cifar_resnet20")
    report = senet.prune(model, images(model), {"params": 1000})
    frozen = [gate.spread for gate in report.gates if gate.frozen]
    kept = [gate.spread for gate in report.gates if not gate.frozen]
    assert max(frozen) <= min(kept)
    assert sum(p.numel() for layer in gates(model).values() for p in layer.parameters()) <= 1000
    assert len(kept) == len(gates(model))


def test_prune_keeps_within_the_drift() -> None:
    model = trained("se_cifar_resnet20")
    batches = images(model)
    all_frozen = senet.freeze(copy.deepcopy(model), batches).drift
    report = senet.prune(model, batches, {"drift": all_frozen / 3})
    assert report.budget_met
    assert report.drift <= all_frozen / 3
    assert 0 < sum(gate.frozen for gate in report.gates) < 9


def test_an_impossible_latency_is_told() -> None:
    model = trained("se_cifar_resnet20", depth=1)
    report = senet.prune(model, images(model), {"latency_ms": 0})
    assert report.budget_met is False
    assert "the budget is not met" in str(report)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: senet.freeze(senet.create_model("cifar_resnet20"), images(m)), "has no attention to freeze"),
        (lambda m: senet.freeze(m, []), "no batches"),
        (lambda m: senet.freeze(m, ["a.jpg"]), "a batch is str; it must be images"),
        (lambda m: senet.prune(m, images(m), {"speed": 1}), "unknown budget 'speed'"),
        (lambda m: senet.prune(m, images(m), {}), "must be one of params, latency_ms, drift"),
        (lambda m: senet.prune(m, images(m), {"drift": float("nan")}), "must be 0 or more"),
    ],
)
def test_mistakes_are_told_and_change_nothing(act: object, message: str) -> None:
    model = trained("se_cifar_resnet20", depth=1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(senet.SenetError, match=message):
        act(model)  # type: ignore[operator]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


# One layer, several names and runs.


class Small(nn.Module):
    """Two convolutions and gates whose flow a test decides."""

    def __init__(self, flow: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.a = SqueezeExcite(8, 2)
        for name, module in modules.items():
            setattr(self, name, module)
        self.flow = flow
        self.double().eval()

    def forward(self, x: Tensor) -> Any:
        return self.flow(self, x)


PICTURES = [torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (0, 1)]


def alias(model: Small) -> Small:
    model.b = model.a
    return model


def test_a_gate_with_two_names_is_frozen_under_both() -> None:
    model = alias(Small(lambda m, x: m.b(m.c1(x))))
    [gate] = senet.freeze(model, PICTURES).gates
    assert (gate.path, gate.folded_into) == ("a", ("c1",))
    assert type(model.a) is type(model.b) is nn.Identity


def test_a_gate_in_two_places_becomes_the_mean_of_both() -> None:
    model = alias(Small(lambda m, x: m.b(m.c2(m.a(m.c1(x))))))
    first = [model.a.gate(model.c1(x)) for x in PICTURES]
    second = [model.a.gate(model.c2(model.a(model.c1(x)))) for x in PICTURES]
    mean = torch.cat([*first, *second]).mean((0, 2, 3)).detach()
    macs = senet.freeze(Small(lambda m, x: m.a(m.c1(x))), PICTURES).gates[0].macs
    [gate] = senet.freeze(model, PICTURES).gates
    assert isinstance(model.a, ConstantGate)
    assert model.a is model.b
    assert torch.allclose(model.a.factors, mean, rtol=1e-12)
    assert gate.reason == "it runs 2 times per forward pass"
    assert gate.macs == 2 * macs


def test_a_part_of_the_network_that_runs_twice_or_has_two_names() -> None:
    unit = nn.Sequential(nn.Conv2d(8, 8, 1), SqueezeExcite(8, 2))
    model = Small(lambda m, x: m.again(m.once(m.c1(x))), once=unit, again=unit, a=nn.Identity())
    report = senet.freeze(model, PICTURES)
    assert [gate.path for gate in report.gates if gate.frozen] == ["once.1"]
    assert isinstance(model.again[1], ConstantGate)
    unit = nn.Sequential(nn.Conv2d(8, 8, 1), SqueezeExcite(8, 2))
    model = Small(lambda m, x: m.names[1](m.c1(x)), names=nn.ModuleList([unit, unit]), a=nn.Identity())
    report = senet.freeze(model, PICTURES)
    assert [gate.folded_into for gate in report.gates if gate.path == "names.0.1"] == [("names.0.0",)]
    assert type(model.names[1][1]) is nn.Identity


def test_gates_in_a_row() -> None:
    model = Small(lambda m, x: m.b(m.a(m.c1(x))), b=SqueezeExcite(8, 2))
    twin = copy.deepcopy(model)
    report = senet.freeze(model, PICTURES)
    assert [bool(gate.folded_into) for gate in report.gates] == [True, False]
    with torch.no_grad():
        maps = [twin.c1(x) for x in PICTURES]
        first = ConstantGate(torch.cat([twin.a.gate(y) for y in maps]).mean((0, 2, 3)))
        second = ConstantGate(torch.cat([twin.b.gate(twin.a(y)) for y in maps]).mean((0, 2, 3)))
    twin.a, twin.b = first, second
    assert all(torch.allclose(model(x), twin(x), rtol=1e-9) for x in PICTURES)


# Nothing by halves.


def kept_state(model: nn.Module) -> tuple[list[Any], dict[str, Tensor]]:
    """Modules with modes, hooks and own attributes; and all numbers."""
    modules = [
        (path, id(m), m.training, list(m._forward_hooks), list(m._forward_pre_hooks), sorted(m.__dict__))
        for path, m in model.named_modules(remove_duplicate=False)
    ]
    return modules, {key: tensor.clone() for key, tensor in model.state_dict().items()}


def assert_kept(model: nn.Module, before: tuple[list[Any], dict[str, Tensor]]) -> None:
    modules, numbers = kept_state(model)
    assert modules == before[0]
    assert numbers.keys() == before[1].keys()
    assert all(torch.equal(numbers[key], before[1][key]) for key in numbers)


@pytest.mark.parametrize(
    "budget", [None, pytest.param({"params": 0}, marks=pytest.mark.slow), {"latency_ms": 0}], ids=str
)
def test_whenever_a_run_fails_the_network_is_as_before(budget: dict[str, float] | None) -> None:
    layers = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32))
    senet.retrofit(layers, senet.SE(reduction=2), where=nn.BatchNorm2d, example_inputs=(torch.rand(2, 8, 4, 4),))
    model = Small(lambda m, x: m.layers(m.b(m.a(m.c1(x)))), layers=layers)
    alias(model)
    runs = fails_at = 0

    def fail(*_: object) -> None:
        nonlocal runs
        runs += 1
        if runs == fails_at:
            raise MemoryError("no more")

    model.c1.register_forward_hook(fail)
    model.train().layers[1].eval()
    act = senet.freeze if budget is None else functools.partial(senet.prune, budget=budget)
    act(copy.deepcopy(model), PICTURES)
    total, failures = runs, 0
    for number in range(1, total + 1):
        fresh, runs, fails_at = copy.deepcopy(model), 0, number
        before = kept_state(fresh)
        try:
            act(fresh, PICTURES)
        except (MemoryError, senet.SenetError):
            failures += 1
            assert_kept(fresh, before)
    assert failures > total / 2  # a run that only looks at the flow may be repeated in another way


def test_a_network_that_looks_into_its_gates_is_left_alone() -> None:
    model = Small(lambda m, x: m.a(m.c1(x)) + m.a.fc2.bias.sum())
    before = kept_state(model)
    with pytest.raises(senet.SenetError, match="doesn't run with a constant for a: 'ConstantGate' object"):
        senet.freeze(model, PICTURES)
    assert_kept(model, before)


def test_a_gate_of_its_own_is_no_network() -> None:
    with pytest.raises(senet.SenetError, match="is an attention layer itself"):
        senet.freeze(SqueezeExcite(3, 1).double(), PICTURES)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", ["gate", "hidden gate", "weights", "images"])
def test_numbers_that_are_none_are_told(how: str, number: float) -> None:
    flow = (lambda m, x: m.a(m.c1(x)).nan_to_num(0, 0, 0)) if how == "hidden gate" else (lambda m, x: m.a(m.c1(x)))
    model = Small(flow, a=SqueezeExcite(8, 2, gate="relu"))
    batches = [batch.clone() for batch in PICTURES]
    with torch.no_grad():
        if how == "images":
            batches[1][2, 0, 0, 0] = number
        else:
            (model.c1 if how == "weights" else model.a.fc2).bias[3] = number
    before = kept_state(model)
    for act in (senet.freeze, functools.partial(senet.prune, budget={"drift": 0.1})):
        with pytest.raises(senet.SenetError, match="non-finite"):
            act(model, batches)
    modules, numbers = kept_state(model)
    assert modules == before[0]
    assert all(torch.equal(numbers[k].nan_to_num(7), before[1][k].nan_to_num(7)) for k in numbers)


def test_factors_beyond_the_layers_type_are_told() -> None:
    model = Small(lambda m, x: m.a(m.c1(x)) / 1e6, a=SqueezeExcite(8, 2, gate="relu")).float()
    with torch.no_grad():
        model.a.fc2.bias.fill_(1e6)
    model.a.half()
    model.flow = lambda m, x: m.a(m.c1(x).half()).float() * 0
    with pytest.raises(senet.SenetError, match="non-finite"):
        senet.freeze(model, [batch.float() for batch in PICTURES])


def test_a_fold_that_would_change_another_batch_is_undone() -> None:
    def flow(m: Any, x: Tensor) -> Tensor:
        y = m.c1(x)
        return m.a(y) if x.mean() > 0 else m.a(y) + y  # the first images don't show this use of the map

    model = Small(flow)
    batches = [PICTURES[0].abs(), -PICTURES[1].abs()]
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.a = ConstantGate(torch.cat([model.a.gate(model.c1(x)) for x in batches]).mean((0, 2, 3)))
    [gate] = senet.freeze(model, batches).gates
    assert gate.reason == "folding it would change the outputs"
    assert all(torch.allclose(model(x), twin(x), rtol=1e-9) for x in batches)


def test_only_the_fold_that_changes_something_is_undone() -> None:
    def flow(m: Any, x: Tensor) -> Tensor:
        y = m.c1(x)
        z = m.b(m.c2(m.a(y)))
        return z if x.mean() > 0 else z + y

    model = Small(flow, b=SqueezeExcite(8, 2))
    report = senet.freeze(model, [PICTURES[0].abs(), -PICTURES[1].abs()])
    assert [(gate.path, gate.folded_into) for gate in report.gates] == [("a", ()), ("b", ("c2",))]


def test_a_network_that_draws_numbers_in_evaluation() -> None:
    model = Small(lambda m, x: m.a(nn.functional.dropout(m.c1(x), 0.5, training=True)))
    nn.init.zeros_(model.a.fc2.weight)
    state = torch.get_rng_state()
    report = senet.freeze(model, PICTURES)
    assert torch.equal(torch.get_rng_state(), state)
    assert report.drift < 1e-12
    assert "would change" not in report.gates[0].reason


def test_outputs_that_are_all_zero_hide_no_change() -> None:
    assert drift_between([torch.zeros(2, 3)], [torch.zeros(2, 3)]) == 0
    assert drift_between([torch.zeros(2, 3)], [torch.ones(2, 3)]) == float("inf")
    assert drift_between([torch.ones(2, 3)], [torch.full((2, 3), float("nan"))]) == float("inf")


def test_a_layer_that_gives_a_forward_of_its_own_keeps_it() -> None:
    model = Small(lambda m, x: m.a(m.c1(x)))
    own = model.a.forward = types.MethodType(lambda layer, x: x * layer.gate(x), model.a)
    senet.prune(model, PICTURES, {"params": 10**9})
    assert model.a.forward is own


def test_a_compiled_network() -> None:
    torch._dynamo.reset()
    model = Small(lambda m, x: m.a(m.c1(x).relu()))
    plain = copy.deepcopy(model)
    model.compile(backend="aot_eager")
    model(PICTURES[0])
    senet.freeze(plain, PICTURES)
    report = senet.freeze(model, PICTURES)
    assert report.gates[0].folded_into == ("c1",)
    assert torch.allclose(model(PICTURES[0]), plain(PICTURES[0]))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_coarse_types_fold_too(kind: torch.dtype) -> None:
    model = trained("se_cifar_resnet20", depth=1).to(kind)
    report = senet.freeze(model, [batch.to(kind) for batch in images(model)])
    assert all(gate.folded_into for gate in report.gates)
    assert "constant: " not in str(report)


def test_the_report_says_why_a_constant_stays() -> None:
    model = alias(Small(lambda m, x: m.b(m.c2(m.a(m.c1(x))))))
    report = senet.freeze(model, PICTURES)
    assert "constant: it runs 2 times per forward pass" in str(report)
    assert report.to_dict()["gates"][0]["reason"] == "it runs 2 times per forward pass"


OTHER_LIBRARIES = {
    "timm SE": lambda: pytest.importorskip("timm").create_model("lcnet_050", num_classes=5),
    "timm effective SE": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), _timm("EffectiveSEModule")(8), nn.Conv2d(8, 4, 1)),
    "timm ECA": lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.SiLU(), _timm("EcaModule")(8), nn.Conv2d(8, 4, 1)),
    "torchvision SE": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.SiLU(), torchvision.ops.SqueezeExcitation(8, 4), nn.Conv2d(8, 4, 1)
    ),
}


def _timm(name: str) -> type[nn.Module]:
    return getattr(pytest.importorskip("timm.layers"), name)


@pytest.mark.parametrize("name", OTHER_LIBRARIES)
def test_layers_of_other_libraries_freeze(name: str) -> None:
    torch.manual_seed(0)
    model = randomised(OTHER_LIBRARIES[name]())
    batch = torch.rand(6, 3, 64, 64, dtype=torch.float64)
    layers = gates(model)
    with senet.record_gates(model) as recorded, torch.no_grad():
        model(batch)
    means = {path: recorded[path].mean(0, keepdim=True) for path in layers}
    constant = copy.deepcopy(model)
    for path in layers:
        constant.set_submodule(path, ConstantGate(means[path].flatten()))
    report = senet.freeze(model, [batch[:4], batch[4:]])
    with torch.no_grad():
        assert torch.allclose(model(batch), constant(batch), rtol=1e-9, atol=1e-10)
    assert report.drift > 0
    assert all(gate.folded_into and gate.params for gate in report.gates)
    assert not gates(model)


def test_a_subclass_with_another_forward_is_left_alone() -> None:
    class Residual(torchvision.ops.SqueezeExcitation):
        def forward(self, x: Tensor) -> Tensor:
            return x + super().forward(x)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Residual(8, 4)).eval()
    with pytest.raises(SenetError, match="no attention to freeze"):
        senet.freeze(model, [torch.rand(2, 3, 8, 8)])
