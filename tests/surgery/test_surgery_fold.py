"""Constants are folded where that is exact, by the maps' flow and the weights' use; elsewhere they stay as layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.prune import l1_unstructured

import senet
from senet.gates.measuring import gates
from senet.nn import Attention, ConstantGate, SqueezeExcite

BATCHES = [torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in range(2)]


def fixed(factors: Tensor) -> SqueezeExcite:
    """A gate that always says the same."""
    layer = SqueezeExcite(len(factors), 2, gate="tanh").double()
    nn.init.zeros_(layer.fc2.weight)
    with torch.no_grad():
        layer.fc2.bias.copy_(torch.atanh(factors))
    return layer


POSITIVE = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
ZERO = POSITIVE * torch.tensor([1, 0] * 4)
SIGNED = torch.linspace(-0.9, 0.9, 8, dtype=torch.float64)


class Chain(nn.Module):
    """A convolution, something, a gate."""

    def __init__(self, between: Any, factors: Tensor = POSITIVE) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1).double()
        self.between = between
        self.se = fixed(factors)

    def forward(self, x: Tensor) -> Tensor:
        return self.se(self.between(self.conv(x)))


def frozen(model: nn.Module, batches: list[Tensor] = BATCHES) -> senet.surgery.FreezeReport:
    """The report of a freezing whose gates don't vary, so that no output may move, in whatever mode."""
    modes = [module.training for module in model.modules()]
    model.eval()
    with torch.no_grad():
        expected = [flat(model(batch)) for batch in batches]
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    report = senet.freeze(model, batches)
    model.eval()
    for batch, outputs in zip(batches, expected, strict=True):
        with torch.no_grad():
            assert torch.allclose(flat(model(batch)), outputs, rtol=1e-9, atol=1e-12)
    assert report.drift < 1e-9
    assert all(isinstance(m, ConstantGate) for m in model.modules() if isinstance(m, Attention))
    assert all(bool(gate.folded_into) != bool(gate.reason) for gate in report.gates)
    assert not any("would change" in gate.reason for gate in report.gates)  # known before it is tried
    return report


def flat(outputs: Any) -> Tensor:
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    return torch.cat([output.detach().flatten() for output in outputs])


LINEAR = {
    "nothing": nn.Identity(),
    "dropout": nn.Dropout(0.5),
    "average pool": nn.AvgPool2d(3, 2, padding=1),
    "adaptive average pool": nn.AdaptiveAvgPool2d(2),
    "number": lambda x: x * -3,
    "parameter": nn.Parameter(torch.randn(8, 1, 1, dtype=torch.float64)).mul,
    "norm": nn.BatchNorm2d(8).double(),
    "group norm": nn.GroupNorm(2, 8).double(),
}
RECTIFIERS = {
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "leaky relu": nn.LeakyReLU(0.1),
    "steep leaky relu": nn.LeakyReLU(3),
    "functional, and a norm before": nn.Sequential(nn.BatchNorm2d(8).double(), nn.ReLU(), nn.AvgPool2d(2)),
}
MAX_POOLS = {
    "max pool": nn.MaxPool2d(3, 2, padding=1),
    "max pool with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "adaptive max pool": nn.AdaptiveMaxPool2d(3),
}
NEITHER = {
    "relu6": nn.ReLU6(),
    "elu": nn.ELU(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(),
    "hardswish": nn.Hardswish(),
    "added bias": lambda x: x + 1,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / (x * x + 1),
    "softmax over channels": nn.Softmax(1),
    "layer norm": nn.LayerNorm([8, 8, 8]).double(),
    "reversed channels": lambda x: x.flip(1),
    "absolute": torch.abs,
}
ALLOWED = {"positive": (LINEAR, RECTIFIERS, MAX_POOLS), "zero": (LINEAR, RECTIFIERS), "signed": (LINEAR,)}
FACTORS = {"positive": POSITIVE, "zero": ZERO, "signed": SIGNED}


@pytest.mark.parametrize("sign", FACTORS)
@pytest.mark.parametrize("between", [*LINEAR, *RECTIFIERS, *MAX_POOLS, *NEITHER])
def test_through_which_operations_a_factor_goes(between: str, sign: str) -> None:
    operation = {**LINEAR, **RECTIFIERS, **MAX_POOLS, **NEITHER}[between]
    [gate] = frozen(Chain(copy.deepcopy(operation), FACTORS[sign])).gates
    assert bool(gate.folded_into) == any(between in allowed for allowed in ALLOWED[sign])


@pytest.mark.parametrize(
    ("name", "gate"),
    [
        *product(("se_mobilenet_v1_025", "se_vgg11", "se_resnet18"), ("tanh", "relu")),
        ("se_bn_inception", "relu"),
        pytest.param("se_bn_inception", "tanh", marks=pytest.mark.slow),
    ],
)
def test_gates_below_and_at_zero_in_the_family(name: str, gate: str) -> None:
    torch.manual_seed(1)
    options = {"se_bn_inception": {}, "se_vgg11": {"depths": (1, 1), "hidden": 16}}.get(name, {"depths": (1, 1)})
    model = senet.create_model(name, num_classes=5, attention=senet.SE(gate=gate), **options).double()
    for layer in gates(model).values():
        nn.init.zeros_(layer.fc2.weight)
        with torch.no_grad():
            layer.fc2.bias.copy_(torch.linspace(-2, 2, layer.channels))
    report = frozen(model, [torch.randn(2, 3, 64, 64, dtype=torch.float64)])
    first = report.gates[0]
    if name == "se_mobilenet_v1_025" and gate == "tanh":  # a ReLU comes before, and one convolution after
        assert first.folded_into == ("stages.2.0.depthwise.0",)
    else:
        assert bool(first.folded_into) == (name == "se_resnet18" or gate == "relu")


class Ahead(nn.Module):
    """A convolution, an activation that no factor passes, a gate, something, a convolution."""

    def __init__(self, after: Any, conv: nn.Module, factors: Tensor = SIGNED) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1).double()
        self.se = fixed(factors)
        self.after = after
        self.conv = conv.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.after(self.se(F.silu(self.first(x)))))


READERS = {
    "pointwise": lambda: nn.Conv2d(8, 5, 1),
    "with bias and stride": lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(8, 12, 3, groups=4, padding=1),
    "depthwise": lambda: nn.Conv2d(8, 16, 3, groups=8, padding=1),
    "dilated": lambda: nn.Conv2d(8, 4, 3, dilation=2, padding=2),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("after", [name for name in LINEAR if "norm" not in name])
def test_a_factor_goes_into_the_convolution_after_it(after: str, reader: str) -> None:
    model = Ahead(copy.deepcopy(LINEAR[after]), READERS[reader]())
    [gate] = frozen(model, [torch.rand(2, 3, 12, 12, dtype=torch.float64)]).gates
    assert gate.folded_into == ("conv",)


@pytest.mark.parametrize(
    ("after", "reader"),
    [
        (nn.ReLU(), READERS["pointwise"]),
        (nn.BatchNorm2d(8).double(), READERS["pointwise"]),
        (lambda x: torch.cat([x, x], 1), lambda: nn.Conv2d(16, 4, 1)),
        (lambda x: x + x.mean(), READERS["pointwise"]),
        (lambda x: x.flip(1), READERS["pointwise"]),
        (nn.Identity(), lambda: nn.ConvTranspose2d(8, 5, 2)),
        (nn.Identity(), lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 5, 1))),
    ],
    ids=["relu", "norm", "cat", "another branch", "reversed channels", "transposed", "computed weights"],
)
def test_where_no_factor_goes_ahead(after: Any, reader: Any) -> None:
    [gate] = frozen(Ahead(after, reader())).gates
    assert "silu comes before" in gate.reason


def test_a_convolution_after_that_runs_twice_or_is_watched_takes_none() -> None:
    class Twice(Ahead):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(super().forward(x)))

    [gate] = frozen(Twice(nn.Identity(), nn.Conv2d(8, 8, 1))).gates
    assert not gate.folded_into
    model = Ahead(nn.Identity(), nn.Conv2d(8, 8, 1))
    seen: list[Tensor] = []
    model.se.register_forward_hook(lambda *call: seen.append(call[-1]))
    [gate] = frozen(model).gates
    assert not gate.folded_into


def test_two_gates_beside_one_convolution() -> None:
    """One factor goes into the convolution's inputs, the other into its outputs."""

    class Pair(Ahead):
        def __init__(self) -> None:
            super().__init__(nn.Identity(), nn.Conv2d(8, 8, 3))
            self.second = fixed(POSITIVE)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(super().forward(x))

    assert [gate.folded_into for gate in frozen(Pair()).gates] == [("conv",), ("conv",)]


def test_a_pool_before_whose_indices_nobody_knows() -> None:
    class Unpooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1).double()
            self.se = fixed(ZERO)

        def forward(self, x: Tensor) -> Tensor:
            y, indices = F.max_pool2d(self.conv(x), 2, return_indices=True)
            return F.max_unpool2d(self.se(y) + 1, indices, 2)

    assert not frozen(Unpooled()).gates[0].folded_into


# How weights are used.


class Two(Chain):
    """Another convolution beside, and what makes something of both: a pair of maps."""

    def __init__(self, prepare: Callable[[Two], None], use: Callable[[Two, Tensor], Tensor]) -> None:
        super().__init__(nn.Identity(), SIGNED)
        self.other = nn.Conv2d(3, 8, 3, padding=1).double()
        self.use = use
        prepare(self)

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return super().forward(x), self.use(self, x)


def tie(name: str) -> Callable[[Two], None]:
    def prepare(m: Two) -> None:
        setattr(m.other, name, getattr(m.conv, name))

    return prepare


def nothing(_: Two) -> None:
    pass


def by_other(m: Two, x: Tensor) -> Tensor:
    return m.other(x)


def view_of_the_weight(m: Two) -> None:
    m.part = nn.Parameter(m.conv.weight.detach()[:4])


def in_one_memory(m: Two) -> None:
    whole = torch.randn(16, 3, 3, 3, dtype=torch.float64)
    m.conv.weight, m.other.weight = nn.Parameter(whole[:8]), nn.Parameter(whole[8:])


def in_a_list(m: Two) -> None:
    m.weights = nn.ParameterList([m.conv.weight])


def as_a_buffer(m: Two) -> None:
    m.register_buffer("average", m.conv.weight.detach())


SHARED: dict[str, tuple[Callable[[Two], None], Callable[[Two, Tensor], Tensor]]] = {
    "weight of two layers": (tie("weight"), by_other),
    "bias of two layers": (tie("bias"), by_other),
    "of a layer that doesn't run": (tie("weight"), lambda _, x: x),
    "read by a function": (nothing, lambda m, x: F.conv2d(x, m.conv.weight)),
    "part of it": (nothing, lambda m, x: F.conv2d(x, m.conv.weight[:4])),
    "detached": (nothing, lambda m, x: F.conv2d(x, m.conv.weight.detach())),
    "its data": (nothing, lambda m, x: F.conv2d(x, m.conv.weight.data)),
    "a norm of it": (nothing, lambda m, x: x * m.conv.weight.norm()),
    "the bias": (nothing, lambda m, x: x.sum(1, keepdim=True) + m.conv.bias[:, None, None]),
    "view under another name": (view_of_the_weight, lambda m, x: F.conv2d(x, m.part)),
    "in a list": (in_a_list, lambda m, x: F.conv2d(x, m.weights[0])),
    "as a buffer": (as_a_buffer, lambda m, x: F.conv2d(x, m.average)),
    "in one memory": (in_one_memory, by_other),
    "the layer runs twice": (nothing, lambda m, x: m.conv(2 * x)),
}


@pytest.mark.parametrize("kind", SHARED)
def test_weights_with_another_use_are_left_alone(kind: str) -> None:
    model = Two(*SHARED[kind])
    before = copy.deepcopy(model.conv.state_dict())
    [gate] = frozen(model).gates
    assert "conv, the layer before" in gate.reason
    assert all(torch.equal(before[key], tensor) for key, tensor in model.conv.state_dict().items())


def test_weights_with_one_use_are_folded() -> None:
    assert frozen(Two(nothing, by_other)).gates[0].folded_into == ("conv",)


class Standardized(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


class Gained(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias * 2, padding=1)


class OtherWeight(nn.Conv2d):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.used = nn.Parameter(torch.randn_like(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.used, self.bias, padding=1) + 0 * F.conv2d(x, self.weight, padding=1)


def hooked(conv: nn.Conv2d) -> nn.Conv2d:
    """A layer that is held as it was by whoever froze it."""
    kept = conv.weight.detach().clone()

    def hold(m: nn.Module, _: Any) -> None:
        m.weight.data.copy_(kept)

    conv.register_forward_pre_hook(hold)
    return conv


class Halved(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight / (1 + weight.abs())


def halved(conv: nn.Conv2d, name: str) -> nn.Conv2d:
    parametrize.register_parametrization(conv, name, Halved())
    return conv


def by_buffer(conv: nn.Conv2d) -> nn.Conv2d:
    weight = conv.weight.detach()
    del conv.weight
    conv.register_buffer("weight", weight)
    return conv


def repeated(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.weight = nn.Parameter(torch.ones(1, dtype=torch.float64).expand(8))
    return norm


def in_inference_mode(conv: nn.Conv2d) -> nn.Conv2d:
    with torch.inference_mode():
        conv.weight = nn.Parameter(torch.randn(8, 3, 3, 3, dtype=torch.float64), requires_grad=False)
    return conv


def plain() -> nn.Conv2d:
    return nn.Conv2d(3, 8, 3, padding=1)


COMPUTED: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(plain()),
    "spectral norm": lambda: parametrizations.spectral_norm(plain()),
    "orthogonal": lambda: parametrizations.orthogonal(plain()),
    "old weight norm": lambda: nn.utils.weight_norm(plain()),
    "old spectral norm": lambda: nn.utils.spectral_norm(plain()),
    "parametrized": lambda: halved(plain(), "weight"),
    "parametrized bias": lambda: halved(plain(), "bias"),
    "pruned": lambda: l1_unstructured(plain(), "weight", 0.5),
    "standardized": lambda: Standardized(3, 8, 3),
    "with a gain": lambda: Gained(3, 8, 3),
    "another weight": lambda: OtherWeight(3, 8, 3),
    "held by a hook": lambda: hooked(plain().double()),
    "a buffer": lambda: by_buffer(plain()),
    "transposed": lambda: nn.ConvTranspose2d(3, 8, 3, padding=1),
    "repeated": lambda: nn.Sequential(plain(), repeated(nn.BatchNorm2d(8))),
    "without parameters": lambda: nn.Sequential(plain(), nn.BatchNorm2d(8, affine=False)),
    "instance norm": lambda: nn.Sequential(plain(), nn.InstanceNorm2d(8, affine=True)),
    "inference tensor": lambda: in_inference_mode(plain()),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", COMPUTED)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.*norm` is deprecated:FutureWarning")
def test_computed_weights_are_left_alone(kind: str, training: bool) -> None:
    torch.manual_seed(0)
    model = Chain(nn.Identity(), SIGNED)
    model.conv = COMPUTED[kind]().double()
    [gate] = frozen(model.train(training)).gates
    assert gate.reason


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.LazyConv2d(8, 3),
        lambda: nn.Sequential(plain(), nn.SyncBatchNorm(8)),
        lambda: nn.Conv2d(3, 8, 3, bias=False, padding=1, padding_mode="reflect"),
        lambda: nn.Sequential(plain(), nn.BatchNorm2d(8, track_running_stats=False)),
    ],
)
def test_unusual_layers_take_factors(layer: Callable[[], nn.Module]) -> None:
    model = Chain(nn.Identity(), SIGNED)
    model.conv = layer().double()
    if isinstance(model.conv, nn.LazyConv2d):
        model(BATCHES[0])
    assert frozen(model).gates[0].folded_into


# How maps are used.


class Flow(Chain):
    def __init__(self, flow: Callable[[Flow, Tensor], Any], factors: Tensor = SIGNED) -> None:
        super().__init__(nn.Identity(), factors)
        self.flow = flow

    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return self.flow(self, x)


def returned(m: Flow, x: Tensor) -> Any:
    y = m.conv(x)
    return y, m.se(y)


def returned_before_an_operation(m: Flow, x: Tensor) -> Any:
    y = m.conv(x)
    return y, m.se(y * 2)


def view_returned(m: Flow, x: Tensor) -> Any:
    y = m.conv(x)
    return y[:, :2], m.se(y)


def twice_in_a_concatenation(m: Flow, x: Tensor) -> Any:
    y = m.conv(x)[:, :4].contiguous()
    return m.se(torch.cat([y, y], 1))


def same_map_twice(m: Flow, x: Tensor) -> Any:
    y = m.narrow(x)
    return m.se(torch.cat([y, y], 1))


def along_the_rows(m: Flow, x: Tensor) -> Any:
    y, z = m.conv(x), m.conv2(x)
    return m.se(torch.cat([y, z], 2))


def along_the_batch(m: Flow, x: Tensor) -> Any:
    return m.se(torch.cat([m.conv(x), m.conv2(x)]))


def with_zeros(m: Flow, x: Tensor) -> Any:
    y = m.narrow(x)
    return m.se(torch.cat([torch.zeros_like(y), y], 1))


def written_into(m: Flow, x: Tensor) -> Any:
    y = m.conv(x)
    y[:, :4] += 1
    return m.se(y)


def copied_over(m: Flow, x: Tensor) -> Any:
    return m.se(m.conv(x).copy_(m.conv2(x)))


def of_a_parameter(m: Flow, x: Tensor) -> Any:
    return m.conv(x) + m.se(m.map)


def by_keyword(m: Flow, x: Tensor) -> Any:
    y = m.conv(x)
    return m.se(x=y) + y


FLOWS = {
    flow.__name__: flow
    for flow in (
        returned, returned_before_an_operation, view_returned, twice_in_a_concatenation, same_map_twice, along_the_rows,
        along_the_batch, with_zeros, written_into, of_a_parameter, by_keyword,
    )
}  # fmt: skip


@pytest.mark.parametrize("flow", FLOWS)
def test_maps_with_another_use_are_left_alone(flow: str) -> None:
    model = Flow(FLOWS[flow])
    model.conv2 = copy.deepcopy(model.conv)
    model.narrow = nn.Conv2d(3, 4, 3, padding=1).double()
    model.map = nn.Parameter(torch.randn(1, 8, 8, 8, dtype=torch.float64))
    [gate] = frozen(model).gates
    assert gate.reason


def test_a_map_that_is_overwritten_takes_nothing_from_the_layer_before() -> None:
    model = Flow(copied_over)
    model.conv2 = nn.Conv2d(3, 8, 1).double()
    frozen(model)


@pytest.mark.parametrize("where", ["conv", "between", "pre"])
def test_what_a_hook_sees_stays_as_it_is(where: str) -> None:
    model = Chain(nn.Sequential(nn.Dropout(0.1), nn.AvgPool2d(2)), SIGNED).eval()
    seen: list[Tensor] = []
    if where == "pre":
        model.between[1].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    else:
        getattr(model, where).register_forward_hook(lambda _m, _a, output: seen.append(output))
    model(BATCHES[0])
    frozen(model)
    seen[1:] = []
    model(BATCHES[0])
    assert torch.equal(seen[0], seen[1])


def test_inputs_of_a_concatenation_take_their_own_factors() -> None:
    model = Flow(lambda m, x: m.se(torch.cat([m.narrow(x), F.avg_pool2d(m.wide(x), 3, 1, 1)], 1)))
    model.narrow, model.wide = nn.Conv2d(3, 2, 1).double(), nn.Conv2d(3, 6, 3, padding=1).double()
    assert frozen(model).gates[0].folded_into == ("narrow", "wide")


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "conv3x3"])
def test_retrofitted_placements(placement: str) -> None:
    torch.manual_seed(0)
    model = senet.create_model("resnet18", depths=(1, 1), num_classes=3)
    senet.retrofit(model, senet.SE(gate="tanh"), placement=placement)
    for layer in gates(model).values():
        nn.init.zeros_(layer.fc2.weight)
        nn.init.uniform_(layer.fc2.bias, -2, 2)
    frozen(model.double(), [torch.randn(2, 3, 48, 48, dtype=torch.float64)])


def test_no_map_of_the_network_itself_is_scaled() -> None:
    model = Flow(lambda m, x: m.se(m.conv(x)).relu_())
    assert frozen(model).gates[0].folded_into == ("conv",)
    model = Flow(lambda m, x: m.se(F.pad(x, (0, 0, 0, 0, 0, 5))))
    assert "comes before" in frozen(model).gates[0].reason
