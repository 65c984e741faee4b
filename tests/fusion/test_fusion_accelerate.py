"""`accelerate`: the same outputs, gradients, statistics and modules; what it leaves, and how it is undone."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.fusion.deferred import MIN_ELEMENTS, DeferredFeatureMap, plain_type
from senet.ops import choose

needs_kernel = pytest.mark.skipif(choose().library is None, reason=f"no compiled kernel: {choose().reason}")
timm = pytest.importorskip("timm")

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mobilenet": lambda: senet.create_model("se_mobilenet_v1_025", num_classes=5),
    "vgg": lambda: senet.create_model("se_vgg11", num_classes=5),
    "efficientnet": lambda: timm.create_model("efficientnet_b0", num_classes=5, drop_rate=0.0),
    "mobilenetv3": lambda: timm.create_model("mobilenetv3_small_100", num_classes=5, drop_rate=0.0),
    "regnet": lambda: timm.create_model("regnety_002", num_classes=5),
    "seresnet": lambda: timm.create_model("seresnet18", num_classes=5),
    "eca": lambda: timm.create_model("ecaresnet26t", num_classes=5),
}


@pytest.fixture(autouse=True)
def small_feature_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator is used at every size."""
    for key in MIN_ELEMENTS:
        monkeypatch.setitem(MIN_ELEMENTS, key, 0)


QUICK = ("mobilenet", "mobilenetv3", "seresnet", "eca")
"""One of each kind: this package's, a norm with its activation, no activation, another gate."""


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if p.ndim == 1:
            p.data.uniform_(0.2, 1.0, generator=generator)
    for name, b in model.named_buffers():
        if name.endswith("running_mean"):
            b.normal_(generator=generator).mul_(0.1)
        elif name.endswith("running_var"):
            b.uniform_(0.5, 1.5, generator=generator)
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return model


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, gradients of the image and all parameters, buffers."""
    model.zero_grad()
    x = x.to(next(model.parameters()).dtype).clone().requires_grad_()
    y = model(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    assert x.grad is not None
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [
        y.detach().double(),
        x.grad.double(),
        *(g.double() for g in gradients),
        *(b.double() for b in model.buffers()),
    ]


def deferring(model: nn.Module) -> int:
    """Number of modules with another class."""
    return sum(plain_type(m) is not type(m) for m in model.modules())


@needs_kernel
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_same_numbers(name: str, training: bool) -> None:
    """As close to the network in float64 as the modules in float32 are."""
    torch.manual_seed(0)
    plain = randomised(NETWORKS[name]()).train(training)
    accelerated = copy.deepcopy(plain)
    report = senet.accelerate(accelerated)
    assert report.fused
    assert not report.left, report.left
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    exact = step(copy.deepcopy(plain).double(), x)
    modules, ours = step(plain, x), step(accelerated, x)
    assert list(accelerated.state_dict()) == list(plain.state_dict())
    scale = torch.stack([t.norm() for t in exact]).max()
    for right, usual, found in zip(exact, modules, ours, strict=True):
        error, allowed = (found - right).norm(), (usual - right).norm()
        assert error <= 10 * allowed + 1e-6 * right.norm() + 1e-9 * scale


@needs_kernel
def test_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    plain = randomised(NETWORKS["efficientnet"]()).train()
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated)
    x = torch.randn(4, 3, 96, 96)
    exact = copy.deepcopy(plain).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        usual, ours = plain(x), accelerated(x)
    assert ours.dtype is usual.dtype
    assert (ours.double() - exact).norm() <= 2 * (usual.double() - exact).norm()


@needs_kernel
def test_saves_memory() -> None:
    """A training step keeps no more activations than without attention."""
    from senet.profiling import saved_bytes

    torch.manual_seed(0)
    with_se = timm.create_model("efficientnet_b0").train()
    x = torch.randn(2, 3, 128, 128)
    before = saved_bytes(with_se, x)
    senet.accelerate(with_se)
    after = saved_bytes(with_se, x)
    for m in with_se.modules():
        if hasattr(m, "se"):
            m.se = nn.Identity()
    assert after < before
    assert after < 1.02 * saved_bytes(with_se, x)


class Net(nn.Module):
    """A convolution, then `body` of norm, activation and attention."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], channels: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.bn, self.act, self.se = nn.BatchNorm2d(channels), nn.SiLU(), senet.SqueezeExcite(channels, 4)
        self.last = nn.Conv2d(channels, 2, 1)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self, self.conv(x)))


def straight(net: Any, x: Tensor) -> Tensor:
    return net.se(net.act(net.bn(x)))


def read_twice(net: Any, x: Tensor) -> Tensor:
    y = net.act(net.bn(x))
    return net.se(y) + y


def function_between(net: Any, x: Tensor) -> Tensor:
    return net.se(torch.relu(net.bn(x)))


def twice(net: Any, x: Tensor) -> Tensor:
    return net.se(net.act(net.bn(net.se(net.act(net.bn(x))))))


def pooled(net: Any, x: Tensor) -> Tensor:
    return net.se(nn.functional.avg_pool2d(net.act(net.bn(x)), 2))


PATHS = {
    "straight": (straight, ""),
    "read_twice": (read_twice, "also read elsewhere"),
    "function_between": (function_between, "no batch norm and activation, as modules"),
    "twice": (twice, ""),
    "pooled": (pooled, "no batch norm and activation, as modules"),
}


@needs_kernel
@pytest.mark.parametrize("body", PATHS)
def test_attention_alone(body: str) -> None:
    """Without a norm that it alone reads, attention is one operator; gradients and statistics are those of modules."""
    torch.manual_seed(0)
    function, reason = PATHS[body]
    plain = randomised(Net(function))
    accelerated = copy.deepcopy(plain)
    [layer] = senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16)).fused
    assert (layer.norm, layer.activation) == ((None, "identity") if reason else ("bn", "silu"))
    assert reason in layer.alone_because
    assert_same(plain, accelerated)


def assert_same(plain: nn.Module, accelerated: nn.Module) -> None:
    x = torch.randn(2, 3, 32, 32)
    for right, found in zip(step(plain, x), step(accelerated, x), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_leaves_other_attention() -> None:
    model = Net(straight)
    model.se = senet.CBAM(reduction=4).build(32)
    report = senet.accelerate(model, torch.zeros(1, 3, 16, 16))
    assert "means of channels alone" in report.left["se"]
    assert not deferring(model)


@needs_kernel
def test_again_copied_pickled_and_undone() -> None:
    torch.manual_seed(0)
    model, x = randomised(Net(straight)).eval(), torch.randn(2, 3, 32, 32)
    before = model(x)
    report = senet.accelerate(model, x)
    assert str(report) == "1 of 1 attention layers run with their norm"
    again = senet.accelerate(model, x)
    assert again.fused == report.fused
    again.undo()  # undoes what this call changed: nothing
    assert deferring(model) == 3
    torch.testing.assert_close(senet.optimize(model, x)[0](x), before, rtol=1e-5, atol=1e-5)
    assert str(senet.optimize(model, x)[1]) == str(senet.optimize(copy.deepcopy(model).eval(), x)[1])
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), torch.load(file, weights_only=False)]
    assert [deferring(other) for other in copies] == [3, 0]  # a file holds the network's own classes
    for other in copies:
        torch.testing.assert_close(other(x), before, rtol=1e-5, atol=1e-5)
        other.bn.weight.data.mul_(2)  # its own numbers, not those of the first
        assert not torch.allclose(other(x), before, rtol=1e-3)
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)
    report.undo()
    assert not deferring(model)
    assert torch.equal(model(x), before)


@needs_kernel
def test_replicas_use_their_own_parameters() -> None:
    """As `nn.DataParallel` makes them: shallow copies of the modules, with other parameters."""
    torch.manual_seed(0)
    model, x = randomised(Net(straight)), torch.randn(2, 3, 32, 32)
    senet.accelerate(model, x)
    replica = model._replicate_for_data_parallel()
    for name, child in model.named_children():
        other = child._replicate_for_data_parallel()
        other._modules = {n: c._replicate_for_data_parallel() for n, c in child.named_children()}
        for module, given in ((other, child), *((other._modules[n], c) for n, c in child.named_children())):
            module._parameters = {}
            for n, p in given.named_parameters(recurse=False):
                setattr(module, n, (2 * p.detach()).requires_grad_())
        replica._modules[name] = other
    with torch.no_grad():
        first = model(x)
    replica(x).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert torch.isfinite(replica.se.fc1.weight.grad).all()
    assert not torch.allclose(replica(x), first, rtol=1e-2)
    assert torch.equal(copy.copy(model.bn).weight, model.bn.weight)


@needs_kernel
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    """The same gradients and statistics, also where the recomputed part ends with the attention."""
    from torch.utils.checkpoint import checkpoint

    def body(net: Any, x: Tensor) -> Tensor:
        part = functools.partial(straight, net)
        y: Tensor = checkpoint(part, x, use_reentrant=reentrant)
        return y

    torch.manual_seed(0)
    plain = randomised(Net(straight)).train()
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))
    plain.body = accelerated.body = body
    assert_same(plain, accelerated)
    assert accelerated.bn.num_batches_tracked == plain.bn.num_batches_tracked


@needs_kernel
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_another_reader(after: bool) -> None:
    """A reader that the example didn't show gets the feature map, and its gradient counts."""
    torch.manual_seed(0)
    plain = randomised(Net(straight))
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))

    def body(net: Any, x: Tensor) -> Tensor:
        y = net.act(net.bn(x))
        if after:
            z = net.se(y)
            return z + y.relu()
        return y.relu() + net.se(y)

    plain.body = accelerated.body = body
    assert_same(plain, accelerated)
    for other in (
        lambda net, x: net.act(net.bn(x)) * 2,
        lambda net, x: net.se(net.act(net.bn(x)) * 2),
        lambda net, x: (v := net.bn(x)) + net.se(net.act(v)),
        lambda net, x: net.se(net.act(v := net.bn(x))) + v,
        lambda net, x: net.se(y := net.act(net.bn(x))) + net.se(y),
    ):
        plain.body = accelerated.body = other
        assert_same(plain, accelerated)


class Reversed(torch.autograd.Function):
    """Gradient reversal: returns its input itself, or computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        return x if factor == 1 else x * factor

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return -dy, None


@needs_kernel
@pytest.mark.parametrize("between", ["returned", "computed", "full backward hook"])
def test_functions_that_autograd_calls(between: str) -> None:
    """They read tensors past any Python dispatch; gradients pass through them all the same."""
    torch.manual_seed(0)
    plain = randomised(Net(straight))
    plain.act = nn.Sequential(nn.SiLU())
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))
    assert deferring(accelerated) == 3
    seen: list[Tensor] = []
    if between == "full backward hook":
        for net in (plain, accelerated):
            net.act.register_full_backward_hook(lambda m, dx, dy: seen.extend((dx[0], dy[0])))
    else:
        factor = 1.0 if between == "returned" else 2.0
        body = lambda net, x: net.se(Reversed.apply(net.act(net.bn(x)), factor))  # noqa: E731
        plain.body = accelerated.body = body
    assert_same(plain, accelerated)
    for right, found in zip(seen[: len(seen) // 2], seen[len(seen) // 2 :], strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


@needs_kernel
@pytest.mark.parametrize("returned", [True, False])
def test_the_mode_of_the_call_counts(returned: bool) -> None:
    """Evaluation mode after the forward pass, or after the norm, changes no number of that pass."""
    torch.manual_seed(0)
    plain = randomised(Net(straight))
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))

    def body(net: Any, x: Tensor) -> Tensor:
        y = net.act(net.bn(x))
        if returned:
            y = net.se(Reversed.apply(y, 1.0))
        net.eval()
        return y if returned else net.se(y)

    plain.body = accelerated.body = body
    assert_same(plain.train(), accelerated.train())


@needs_kernel
def test_reading_under_another_mode_keeps_gradients() -> None:
    """A hook that reads without gradients (a logger) changes none."""
    torch.manual_seed(0)
    plain = randomised(Net(straight))
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))

    def body(net: Any, x: Tensor) -> Tensor:
        y = net.act(net.bn(x))
        assert isinstance(y, DeferredFeatureMap) == (net is accelerated)
        with torch.no_grad():
            assert torch.isfinite(y).all()
        return net.se(y)

    plain.body = accelerated.body = body
    assert_same(plain, accelerated)


@needs_kernel
def test_inserted_attention() -> None:
    """A retrofitted network, whose attention is applied by a hook on its norm or activation."""
    torch.manual_seed(0)
    plain = timm.create_model("mobilenetv2_050", num_classes=5, drop_rate=0.0)
    senet.retrofit(plain, senet.SE())
    randomised(plain)
    accelerated = copy.deepcopy(plain)
    report = senet.accelerate(accelerated)
    assert all(layer.norm for layer in report.fused)
    assert len(report.fused) > 5
    x = torch.randn(2, 3, 96, 96)
    exact, usual, found = (step(m, x) for m in (copy.deepcopy(plain).double(), plain, accelerated))
    for right, modules, ours in zip(exact, usual, found, strict=True):
        assert (ours - right).norm() <= 10 * (modules - right).norm() + 1e-6 * right.norm() + 1e-9


@needs_kernel
@pytest.mark.parametrize("where", ["bn", "act", "se"])
def test_hooks_see_what_they_saw(where: str) -> None:
    """A hook on one of the three sees the tensor that it saw before; without it the operator comes back."""
    torch.manual_seed(0)
    plain = Net(straight)
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))
    x, seen = torch.randn(2, 3, 32, 32), []
    for model in (plain, accelerated):
        handle = getattr(model, where).register_forward_hook(lambda m, args, y: seen.append((args[0], y)))
        model(x)
        handle.remove()
    torch.testing.assert_close(*seen)
    with senet.record_gates(plain.eval()) as right, senet.record_gates(accelerated.eval()) as found:
        plain(x)
        accelerated(x)
    torch.testing.assert_close(dict(found), dict(right))


@needs_kernel
def test_small_feature_maps_are_left_to_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.manual_seed(0)
    plain = randomised(Net(straight)).eval()
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(accelerated(x), plain(x))
    x = torch.randn(8, 3, 128, 128)
    assert not torch.equal(accelerated(x), plain(x))  # rounds otherwise


@needs_kernel
@pytest.mark.parametrize("transform", ["compile", "vmap", "export", "meta"])
def test_elsewhere_the_modules_compute(transform: str) -> None:
    torch.manual_seed(0)
    plain = Net(straight).eval()
    accelerated = copy.deepcopy(plain)
    senet.accelerate(accelerated, torch.zeros(1, 3, 16, 16))
    x = torch.randn(2, 3, 32, 32)
    if transform == "compile":
        found = torch.compile(accelerated, backend="aot_eager")(x)
    elif transform == "vmap":
        found = torch.func.vmap(accelerated)(x[:, None])[:, 0]
    elif transform == "export":
        found = torch.export.export(accelerated, (x,)).module()(x)
    else:
        assert accelerated.to("meta")(x.to("meta")).shape == (2, 2, 32, 32)
        return
    torch.testing.assert_close(found, plain(x), rtol=1e-5, atol=1e-5)
