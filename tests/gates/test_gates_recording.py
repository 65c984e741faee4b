"""Gates are seen whoever wrote the layer, and nothing of the looking remains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.errors import SenetError
from senet.gates import gated_layers
from senet.gates.statistics import GateStatistics


def of_timm(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return pytest.importorskip("timm.layers").__dict__[name](16)

    return make


def timm_efficientnet() -> nn.Module:
    return pytest.importorskip("timm.models._efficientnet_blocks").SqueezeExcite(16)


def of_torchvision() -> nn.Module:
    from torchvision.ops import SqueezeExcitation

    return SqueezeExcitation(16, 4)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "se": lambda: senet.SE(reduction=4).build(16),
    "eca": lambda: senet.ECA().build(16),
    "scse": lambda: senet.ScSE(reduction=4).build(16),
    "spatial": lambda: senet.SpatialSE().build(16),
    "timm SEModule": of_timm("SEModule"),
    "timm EffectiveSEModule": of_timm("EffectiveSEModule"),
    "timm EcaModule": of_timm("EcaModule"),
    "timm CecaModule": of_timm("CecaModule"),
    "timm SqueezeExcite": timm_efficientnet,
    "torchvision": of_torchvision,
}


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("name", LAYERS)
def test_the_gate_is_what_the_layer_multiplies_by(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Identity(), LAYERS[name]()).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    first, second = torch.rand(2, 16, 8, 8, dtype=torch.float64), torch.rand(3, 16, 8, 8, dtype=torch.float64)
    with senet.record_gates(model) as gates:
        outputs = torch.cat([model(first), model(second)])
    assert list(gates) == ["1"]
    assert len(gates["1"]) == 5
    assert gates["1"].std() > 1e-3
    assert torch.allclose(torch.cat([first, second]) * gates["1"], outputs, rtol=1e-9)


def test_a_retrofitted_network_and_its_paths() -> None:
    import torchvision

    model = torchvision.models.resnet18(num_classes=3)
    senet.retrofit(model, senet.SE())
    model.train()
    model.layer1[0].bn1.eval()
    before = hooks(model)
    with senet.record_gates(model) as gates:
        assert not model.training
        model(torch.randn(2, 3, 64, 64))
    assert len(gates) == 8
    assert all(path.endswith(".attention") for path in gates)
    assert gates["layer4.1.bn2.attention"].shape == (2, 512, 1, 1)
    assert model.training
    assert not model.layer1[0].bn1.training
    assert hooks(model) == before


def test_nothing_remains_after_an_exception() -> None:
    model = senet.create_model("se_cifar_resnet20").train()
    with pytest.raises(RuntimeError, match="on purpose"), senet.record_gates(model):
        raise RuntimeError("on purpose")
    assert hooks(model) == 0
    assert all(module.training for module in model.modules())


def test_a_network_without_gates_is_refused() -> None:
    with pytest.raises(SenetError, match="Linear has no attention layer"), senet.record_gates(nn.Linear(1, 1)):
        pass


@pytest.mark.parametrize("positions", [(), (1, 1), (3, 2)], ids=str)
def test_streaming_statistics_are_those_of_all_at_once(positions: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    gate = torch.rand(60, 7, *positions, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 4, (60,), generator=draw)
    labels[labels == 2] = 3  # a class without images
    statistics = GateStatistics(7, classes=4)
    for rows in torch.arange(60).split([1, 20, 39]):
        statistics.add(gate[rows], len(rows), labels[rows])
    flat = gate.reshape(60, 7, -1).movedim(1, 0)
    whole = flat.reshape(7, -1)
    assert torch.allclose(statistics.mean, whole.mean(1))
    assert torch.allclose(statistics.variance, whole.var(1, correction=0))
    assert torch.allclose(statistics.within + statistics.between, statistics.variance)
    assert statistics.spread == pytest.approx(float(whole.var(1, correction=0).mean().sqrt()))
    for k in (0, 1, 3):
        own: Tensor = flat[:, labels == k].reshape(7, -1)
        assert torch.allclose(statistics.class_mean[k], own.mean(1))
        assert torch.allclose(statistics.class_spread[k], own.std(1, correction=0))
    assert statistics.counts[2] == 0
    assert statistics.dead == pytest.approx(float((gate < 0.05).double().mean()))
    assert statistics.saturated == pytest.approx(float((gate > 0.95).double().mean()))


def test_a_layer_with_two_names_or_two_runs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = senet.SE(reduction=2).build(4)
            self.b = self.a

        def forward(self, x: Tensor) -> Tensor:
            return self.b(x=2 * self.a(x))

    model, image = Twice(), torch.rand(3, 4, 2, 2)
    with senet.record_gates(model) as gates:
        model(image)
    assert list(gates) == ["a"]
    first = model.a.gate(image)
    assert torch.equal(gates["a"], torch.cat([first, model.a.gate(2 * image * first)]))


def test_a_layer_inside_another_and_outside() -> None:
    inner = senet.SE(reduction=2).build(4)
    outer = senet.ECA().build(4)
    outer.inner = inner
    model = nn.Sequential(outer, nn.ModuleDict({"alias": outer}), inner)
    assert list(gated_layers(model)) == ["0", "2"]


def test_a_layer_that_did_not_run_is_named() -> None:
    model = nn.ModuleDict({"used": senet.SE(reduction=2).build(4), "unused": senet.SE(reduction=2).build(4)})
    with senet.record_gates(model) as gates:
        assert gates.not_seen == ("used", "unused")
        model["used"](torch.rand(2, 4, 3, 3))
    assert list(gates) == ["used"]
    assert "unused" not in gates
    assert gates.get("unused") is None
    assert gates.not_seen == ("unused",)
    with pytest.raises(SenetError, match=r"^'unused' hasn't run yet"):
        gates["unused"]
    with pytest.raises(KeyError, match="elsewhere"):
        gates["elsewhere"]


@torch.no_grad()
@pytest.mark.parametrize("how", ["whole", "in place", "layer"])
def test_a_network_compiled_before_shows_its_gates(how: str) -> None:
    model = senet.create_model("se_cifar_resnet20", depth=1, num_classes=3).eval()
    images = torch.randn(2, 3, 16, 16)
    with senet.record_gates(model) as expected:
        model(images)
    run: nn.Module = model
    if how == "whole":
        run = torch.compile(model, backend="aot_eager")  # type: ignore[assignment]
    else:
        (model if how == "in place" else model.stages["2"]).compile(backend="aot_eager")
    run(images)
    with senet.record_gates(run) as gates:
        run(images)
    assert [path.removeprefix("_orig_mod.") for path in gates] == list(expected)
    for found, gate in zip(gates.values(), expected.values(), strict=True):
        assert torch.allclose(found, gate, atol=1e-5)


def test_an_exception_in_the_forward_pass_gives_everything_back() -> None:
    model = senet.create_model("se_cifar_resnet20", depth=1).train()
    model.stages["2"].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(SenetError, match="expects"), senet.record_gates(model):
        model.stages["2"][0].se(torch.rand(1, 3, 4, 4))
    assert hooks(model) == 0
    assert [module.training for module in model.modules()] == modes
