"""`optimize` on networks of others: the same numbers, and modules wherever something else may happen."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.fusion.convolutions import DepthwiseConv, TiledConv
from senet.fusion.gated_chain import GatedChain
from senet.fusion.layers import FusedBlock, FusedConv
from senet.ops import choose
from senet.ops.tiled_convolution import available

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")
needs_kernel = pytest.mark.skipif(choose().library is None, reason=f"no compiled kernel: {choose().reason}")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mobilenetv3": (lambda: timm.create_model("mobilenetv3_small_050", num_classes=5), 9),
    "efficientnet": (lambda: timm.create_model("efficientnet_b0", num_classes=5), 16),
    "regnet": (lambda: timm.create_model("regnety_002", num_classes=5), 13),
    "seresnet": (lambda: timm.create_model("seresnet18", num_classes=5), 8),
    "bottleneck": (lambda: timm.create_model("seresnet50", num_classes=5), 16),
    "eca": (lambda: timm.create_model("ecaresnet26t", num_classes=5), 8),
    "torchvision mobilenet": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5), 9),
    "torchvision resnet": (lambda: torchvision.models.resnet18(num_classes=5), 8),
}
"""Networks, and how many attention layers or residual blocks are fused."""
QUICK = ("mobilenetv3", "seresnet", "torchvision resnet")


def randomised(model: nn.Module) -> nn.Module:
    """All weights, gammas, statistics and gates are random: zero hides everything."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if p.ndim == 1:
            p.data.uniform_(-0.3, 1.0, generator=generator)
    for name, b in model.named_buffers():
        if name.endswith("running_mean"):
            b.normal_(generator=generator).mul_(0.1)
        elif name.endswith("running_var"):
            b.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def assert_same(model: nn.Module, x: Tensor, **options: Any) -> tuple[nn.Module, Any]:
    """In float64 to 1e-9, in float32 to 1e-4 of a pass in float64; the given network stays."""
    exact = copy.deepcopy(model).double()
    expected = exact(x.double())
    assert expected.abs().max() > 1e-3
    found = senet.optimize(exact, **options)[0](x.double())
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    made, report = senet.optimize(model, **options)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = made(x.contiguous(memory_format=layout)).double()
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())
    return made, report


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_the_same_numbers(name: str) -> None:
    torch.manual_seed(0)
    build, fused = NETWORKS[name]
    made, report = assert_same(randomised(build()), images())
    assert not report.norms_left
    assert not report.not_traced
    assert report.chains_fused + report.blocks_fused == fused
    assert not any(isinstance(m, nn.BatchNorm2d) for m in made.modules())


@pytest.mark.parametrize("name", ["mobilenetv3", "seresnet"])
def test_exported_as_plain_operations(name: str) -> None:
    made, _ = senet.optimize(randomised(NETWORKS[name][0]()))
    with torch.no_grad():
        exported = torch.export.export(made, (images(),))
        targets = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert all(target.startswith("aten.") for target in targets)
        torch.testing.assert_close(exported.module()(images()), made(images()), rtol=1e-4, atol=1e-4)
    assert torch.equal(copy.deepcopy(made)(images()), made(images()))


@pytest.mark.parametrize("name", ["mobilenetv3", "seresnet"])
def test_gates_can_be_recorded(name: str) -> None:
    model = randomised(NETWORKS[name][0]())
    made, _ = senet.optimize(model)
    with torch.no_grad(), senet.record_gates(model) as expected:
        model(images())
    with torch.no_grad(), senet.record_gates(made) as found:
        made(images())
    assert len(found) == len(expected)
    for ours, theirs in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# --- any network --------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two convolutions with attention between them, in an order that `body` gives."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], act: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.bn, self.act, self.se = nn.BatchNorm2d(24), act or nn.SiLU(), senet.SqueezeExcite(24, 4)
        self.last, self.end = nn.Conv2d(24, 40, 1), nn.BatchNorm2d(40)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def straight(net: Any, x: Tensor) -> Tensor:
    return net.end(net.last(net.se(net.act(net.bn(net.conv(x))))))


def norm_read_twice(net: Any, x: Tensor) -> Tensor:
    y = net.bn(net.conv(x))
    return net.end(net.last(net.se(net.act(y)))) + y.mean()


def convolution_read_twice(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    return net.end(net.last(net.se(net.act(net.bn(y))))) + y.mean()


def attention_read_twice(net: Any, x: Tensor) -> Tensor:
    y = net.se(net.act(net.bn(net.conv(x))))
    return net.end(net.last(y)) + y.mean()


def activation_read_twice(net: Any, x: Tensor) -> Tensor:
    y = net.act(net.bn(net.conv(x)))
    return net.end(net.last(net.se(y))) + y.mean()


def attention_twice(net: Any, x: Tensor) -> Tensor:
    return net.end(net.last(net.se(net.se(net.act(net.bn(net.conv(x)))))))


def function_between(net: Any, x: Tensor) -> Tensor:
    return net.end(net.last(net.se(torch.relu(net.bn(net.conv(x))))))


def no_activation(net: Any, x: Tensor) -> Tensor:
    return net.end(net.last(net.se(net.bn(net.conv(x)))))


def norm_first(net: Any, x: Tensor) -> Tensor:
    return net.end(net.last(net.se(net.bn(net.act(net.conv(x))))))


def pooled(net: Any, x: Tensor) -> Tensor:
    return net.end(net.last(nn.functional.avg_pool2d(net.se(net.act(net.bn(net.conv(x)))), 2)))


BODIES = (
    straight, norm_read_twice, convolution_read_twice, attention_read_twice, activation_read_twice, attention_twice,
    function_between, no_activation, norm_first, pooled,
)  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_any_order(body: Callable[[Any, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    made, _ = assert_same(randomised(Net(body)), images(16), example_inputs=images(16))
    if body is straight:
        assert isinstance(made.se, GatedChain)
        assert isinstance(made.se.before, FusedConv)
        assert isinstance(made.se.after, FusedConv)


ACTS = (
    nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.SiLU(), nn.Hardswish(), nn.GELU(),
    nn.GELU(approximate="tanh"), nn.LeakyReLU(0.3), nn.PReLU(), nn.Tanh(),
)  # fmt: skip


@pytest.mark.parametrize("act", ACTS, ids=str)
def test_any_activation(act: nn.Module) -> None:
    torch.manual_seed(0)
    assert_same(randomised(Net(straight, act)), images(16))


@pytest.mark.parametrize("path", ["conv", "bn", "act", "se", "se.fc1", "last", "end"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_watched_is_called(path: str, when: str) -> None:
    torch.manual_seed(0)
    model, x, seen = randomised(Net(straight)), images(16), list[Tensor]()
    with torch.no_grad():
        expected = model(x)

        def watch(net: nn.Module) -> None:
            net.get_submodule(path).register_forward_hook(lambda _m, _a, y: seen.append(y.clone()))

        if when == "before":
            watch(model)
            model(x)
        made, _ = senet.optimize(model)
        del seen[1:]  # the example runs through hooks
        if when == "after" and path.startswith("se"):
            made.get_submodule(path.replace("se", "se.attention", 1)).register_forward_hook(
                lambda _m, _a, y: seen.append(y.clone())
            )
        found = made(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if when == "before":
        assert len(seen) == 2
        torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-5)
    elif path.startswith("se"):
        assert len(seen) == 1


def test_a_replaced_forward_stays() -> None:
    torch.manual_seed(0)
    model = randomised(Net(straight))
    bn, x = model.bn, images(16)
    model.bn.forward = lambda y: 2 * type(bn).forward(bn, y)  # type: ignore[method-assign]
    with torch.no_grad():
        torch.testing.assert_close(senet.optimize(model)[0](x), model(x), rtol=1e-4, atol=1e-5)


class Residual(nn.Module):
    """A block of one's own, whose sum is `merge`."""

    def __init__(self, merge: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.merge = merge

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.merge(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))), x))


MERGES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "sum": (lambda y, x: y + x, True),
    "turned": (lambda y, x: x + y, True),
    "in place": (lambda y, x: y.add_(x), True),
    "weighted": (lambda y, x: torch.add(y, x, alpha=3), False),
    "difference": (lambda y, x: y - x, False),
    "with a number": (lambda y, x: y + 0.5 * x, False),
    "read twice": (lambda y, x: (y + x) * (1 + (y + x).mean()), False),
}


@pytest.mark.parametrize("merge", MERGES)
def test_residual_blocks_of_ones_own(merge: str) -> None:
    torch.manual_seed(0)
    function, fused = MERGES[merge]
    model = randomised(nn.Sequential(nn.Conv2d(3, 16, 3), Residual(function), Residual(function)))
    made, report = assert_same(model, images(16))
    assert isinstance(made[1], FusedBlock) == fused
    assert report.blocks_fused == 2 * fused
    assert not report.norms_left


def test_a_network_that_can_not_be_run() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(straight)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.net(x) + y

    model = randomised(Odd())
    made, report = senet.optimize(model)
    assert "can't run" in report.not_traced
    assert report.norms_left
    x, y = images(16), torch.ones(1)
    assert torch.equal(made(x, y), model(x, y))
    made, report = senet.optimize(model, (x, y))
    assert not report.norms_left
    torch.testing.assert_close(made(x, y), model(x, y), rtol=1e-4, atol=1e-5)


@needs_kernel
def test_which_convolutions_the_kernel_computes() -> None:
    made, _ = senet.optimize(randomised(NETWORKS["mobilenetv3"][0]()))
    assert sum(isinstance(m, DepthwiseConv) for m in made.modules()) == 11
    half, _ = senet.optimize(randomised(NETWORKS["seresnet"][0]()).bfloat16())
    assert any(isinstance(m, TiledConv) for m in half.modules()) == available()


def test_bfloat16() -> None:
    """No further from float64 than the modules in bfloat16 are."""
    torch.manual_seed(0)
    model = randomised(NETWORKS["seresnet"][0]())
    x = images().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        half = copy.deepcopy(model).bfloat16()
        exact = copy.deepcopy(half).double()(x.bfloat16().double())
        usual, ours = half(x.bfloat16()), senet.optimize(half)[0](x.bfloat16())
    assert ours.dtype is torch.bfloat16
    assert (ours.double() - exact).norm() <= 1.5 * (usual.double() - exact).norm()
