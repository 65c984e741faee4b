"""`freeze` and `prune`: gates become constants, constants become weights, and the report says what it cost."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.gates.measuring import gates
from senet.gates.statistics import GateStatistics
from senet.nn import Attention, ConstantGate

FAMILIES = {  # name: how many gates can't be folded, since their map is needed elsewhere too
    "se_resnet18": 0,
    "se_cifar_preresnet20": 0,
    "se_mobilenet_v1_025": 0,
    "se_shufflenet_v1_g3": 0,
    "se_bn_inception": 2,
}


def trained(name: str, **options: object) -> nn.Module:
    """A network in float64 in which nothing is at its start and each gate varies from image to image."""
    torch.manual_seed(0)
    model = senet.create_model(name, num_classes=10, **options).double().eval()
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and tensor.is_floating_point():
            nn.init.uniform_(tensor.data, 0.5, 1.5) if "var" in key else nn.init.normal_(tensor.data, 0.4, 0.3)
    return model


def images(model: nn.Module, count: int = 3, batches: int = 2) -> list[Tensor]:
    side = 32 if model.spec.preprocessing.size[0] == 32 else 64
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(count, 3, side, side, dtype=torch.float64, generator=draw) for _ in range(batches)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_frozen_network_is_the_one_with_constant_gates(name: str) -> None:
    model = trained(name)
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
    assert sum(not gate.folded_into for gate in report.gates) == FAMILIES[name]
    constants = [m for m in model.modules() if isinstance(m, Attention)]
    assert len(constants) == FAMILIES[name]
    assert all(isinstance(m, ConstantGate) for m in constants)


def test_what_is_left_is_the_plain_network() -> None:
    model = trained("se_resnet18")
    report = senet.freeze(model, images(model))
    plain = senet.create_model("resnet18", num_classes=10).double().eval()
    plain.load_state_dict(model.state_dict())  # strict
    [batch, _] = images(model)
    assert torch.equal(plain(batch), model(batch))
    assert report.params_saved == 89_080
    assert "8 of 8 gates frozen: 89,080 parameters" in str(report)
    assert json.loads(report.to_json())["gates"][0]["folded_into"] == ["stages.2.0.branch.bn2"]


def test_a_retrofitted_network_is_frozen_back_to_its_own_keys() -> None:
    model = trained("resnet18").float()
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
    model = trained("se_resnet18")
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


@pytest.mark.parametrize(("budget", "kept"), [({"params": 10**9}, 9), ({"params": 0}, 0), ({"drift": 1e9}, 0)])
def test_extreme_budgets(budget: dict[str, float], kept: int) -> None:
    model = trained("se_cifar_resnet20")
    report = senet.prune(model, images(model), budget)
    assert len(gates(model)) == kept
    assert report.met


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
    assert report.met
    assert report.drift <= all_frozen / 3
    assert 0 < sum(gate.frozen for gate in report.gates) < 9


def test_an_impossible_latency_is_told() -> None:
    model = trained("se_cifar_resnet20")
    report = senet.prune(model, images(model), {"latency_ms": 0})
    assert report.met is False
    assert "the budget is not met" in str(report)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: senet.freeze(senet.create_model("cifar_resnet20"), images(m)), "has no attention to freeze"),
        (lambda m: senet.freeze(m, []), "no batches"),
        (lambda m: senet.freeze(m, ["a.jpg"]), "a batch is str; give images"),
        (lambda m: senet.prune(m, images(m), {"speed": 1}), "unknown budget 'speed'"),
        (lambda m: senet.prune(m, images(m), {}), "give one of params, latency_ms, drift"),
        (lambda m: senet.prune(m, images(m), {"drift": float("nan")}), "must be 0 or more"),
    ],
)
def test_mistakes_are_told_and_change_nothing(act: object, message: str) -> None:
    model = trained("se_cifar_resnet20")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(senet.SenetError, match=message):
        act(model)  # type: ignore[operator]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
