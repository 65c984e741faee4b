"""The end of a residual block: the operator against its definition in float64, and when the modules compute."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import senet
import senet.nn.epilogue as home
from senet.nn.epilogue import norm_relu
from senet.nn.epilogue import residual_epilogue as tail
from senet.ops import bn_se_add_relu as operator
from senet.ops import choose
from senet.ops.bn_se_add_relu import definition
from senet.ops.gate_functions import GATE_FUNCTIONS

needs_kernel = pytest.mark.skipif(choose().library is None, reason=f"no compiled kernel: {choose().reason}")
NAMES = ("x", "shortcut", "gamma", "beta", "mean", "var", "w1", "b1", "w2", "b2")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def inputs(
    shape: tuple[int, ...],
    *,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.channels_last,
    se: bool = True,
    shortcut: bool = True,
    mean: float = 0.0,
    zero_gamma: bool = False,
    seed: int = 0,
) -> list[Tensor | None]:
    g = torch.Generator().manual_seed(seed)
    c = shape[1]
    hidden = max(c // 4, 1)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g)

    maps = [(normal(*shape) + mean).to(dtype), normal(*shape).to(dtype) if shortcut else None]
    norm = [normal(c) * (not zero_gamma), normal(c), normal(c) + mean, torch.rand(c, generator=g) + 0.5]
    layers = [normal(hidden, c) / c**0.5, normal(hidden), normal(c, hidden) / hidden**0.5, normal(c)]
    return [
        *(m if m is None else m.contiguous(memory_format=layout) for m in maps),
        *norm,
        *(layers if se else [None] * 4),
    ]


def derived(compute: Any, values: list[Tensor | None], dy: Tensor, options: tuple[Any, ...]) -> dict[str, Tensor]:
    """Output and all gradients, by name."""
    leaves = [
        v if v is None else v.detach().clone().requires_grad_(n not in ("mean", "var"))
        for n, v in zip(NAMES, values, strict=True)
    ]
    y = compute(*leaves, *options)
    wanted = {n: v for n, v in zip(NAMES, leaves, strict=True) if v is not None and v.requires_grad}
    found = torch.autograd.grad(y, list(wanted.values()), dy.to(y.dtype))
    return {"y": y.detach(), **dict(zip(wanted, found, strict=True))}


def kernel(*arguments: Any) -> Tensor:
    return operator(*arguments)[0]


def assert_agrees(values: list[Tensor | None], *, training: bool = True, gate: int = 0) -> None:
    options = (training, 1e-5, gate)
    exact = [v if v is None else v.double() for v in values]
    x = values[0]
    assert x is not None
    # A value within rounding of zero may be on either side of the ReLU: it gets no gradient here.
    ours, theirs = kernel(*values, *options), definition(*exact, *options)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)) * ((ours > 0) == (theirs > 0))
    dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
    found, truth = derived(kernel, values, dy, options), derived(definition, exact, dy, options)
    plain = derived(definition, values, dy, options)
    assert found["y"].stride() == x.stride()
    for name, exactly in truth.items():
        # A gradient may be a sum that cancels: then its terms set the scale, not the little that is left.
        scale = exactly.abs().max().clamp_min(max(1e-3, 1e-2 * float(dy.double().abs().sum()) / x.shape[1]))
        off = ((found[name].double() - exactly).abs().max() / scale).item()
        # Where the problem itself is ill-conditioned (two values a channel, a saturated gate, a mean a thousand
        # times the deviation), no float32 gets nearer than PyTorch's.
        plainly = ((plain[name].double() - exactly).abs().max() / scale).item()
        limit = TOLERANCE[x.dtype] if name in ("y", "x", "shortcut") else TOLERANCE[torch.float32]
        assert off <= max(limit, 4 * plainly), (name, off, plainly)


@needs_kernel
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("se", [True, False], ids=["se", "plain"])
@pytest.mark.parametrize("shortcut", [True, False], ids=["add", "no add"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_kernel_agrees_with_the_definition(
    dtype: str, layout: str, se: bool, shortcut: bool, training: bool
) -> None:
    for shape in ((4, 48, 9, 7), (2, 130, 3, 3)):
        values = inputs(shape, dtype=TYPES[dtype], layout=LAYOUTS[layout], se=se, shortcut=shortcut)
        assert_agrees(values, training=training)


@needs_kernel
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 12), st.integers(1, 12)),
    dtype=st.sampled_from(list(TYPES)),
    layout=st.sampled_from(list(LAYOUTS)),
    se=st.booleans(),
    shortcut=st.booleans(),
    training=st.booleans(),
    zero_gamma=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_shape(shape, dtype, layout, se, shortcut, training, zero_gamma, seed) -> None:
    if training and shape[0] * shape[2] * shape[3] < 3:
        training = False  # of two values a channel, batch norm leaves only signs
    options = {"dtype": TYPES[dtype], "layout": LAYOUTS[layout], "se": se, "shortcut": shortcut}
    assert_agrees(inputs(shape, **options, zero_gamma=zero_gamma, seed=seed), training=training)


@needs_kernel
@pytest.mark.parametrize("gate", range(len(GATE_FUNCTIONS)))
def test_every_gate(gate: int) -> None:
    assert_agrees(inputs((3, 24, 5, 5)), gate=gate)


@needs_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_does_not_cancel(layout: str) -> None:
    """With x = 10000 +- 1, the result is as exact as with x = +- 1: of the same numbers, shifted without rounding."""
    values = inputs((4, 32, 14, 14), layout=LAYOUTS[layout])
    x = values[0]
    assert x is not None
    values[0] = (x * 64).round() / 64
    shifted = [values[0] + 10000, *values[1:]]
    assert torch.equal(shifted[0] - 10000, values[0])
    exact = definition(*[v if v is None else v.double() for v in values], True, 1e-5, 0)
    assert (kernel(*shifted, True, 1e-5, 0) - exact).abs().max() <= 1e-5 * exact.abs().max()


@needs_kernel
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
def test_the_same_bits_for_any_number_of_threads(layout: str, dtype: str) -> None:
    values = inputs((8, 64, 33, 31), dtype=TYPES[dtype], layout=LAYOUTS[layout])
    dy = torch.randn(8, 64, 33, 31, generator=torch.Generator().manual_seed(1)).to(TYPES[dtype])
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(derived(kernel, values, dy, (True, 1e-5, 0)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for name, value in found[0].items():
            assert torch.equal(other[name], value), name


@needs_kernel
def test_what_is_no_number_stays_none() -> None:
    values = inputs((2, 16, 4, 4))
    assert values[0] is not None
    values[0][1, 3, 2, 2] = float("nan")
    y = kernel(*values, False, 1e-5, 0)
    assert y.isnan().any()
    assert torch.equal(y.isnan(), definition(*values, False, 1e-5, 0).isnan())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_definition_is_differentiable_twice(training: bool) -> None:
    values = [v if v is None else v.double() for v in inputs((3, 4, 3, 2))]
    leaves = [v.requires_grad_(n not in ("mean", "var")) for n, v in zip(NAMES, values, strict=True) if v is not None]
    assert torch.autograd.gradcheck(lambda *v: definition(*v, training, 1e-5, 0), leaves)
    assert torch.autograd.gradgradcheck(lambda *v: definition(*v, training, 1e-5, 0), leaves)


@needs_kernel
@pytest.mark.parametrize("shortcut", [True, False], ids=["add", "no add"])
def test_the_second_derivative(shortcut: bool) -> None:
    values = inputs((3, 8, 5, 4), shortcut=shortcut)
    second = []
    for compute, kind in ((kernel, torch.float32), (definition, torch.float64)):
        leaves = [
            v if v is None else v.to(kind).requires_grad_(n not in ("mean", "var"))
            for n, v in zip(NAMES, values, strict=True)
        ]
        wanted = [v for v in leaves if v is not None and v.requires_grad]
        first = torch.autograd.grad(compute(*leaves, True, 1e-5, 0).square().sum(), wanted, create_graph=True)
        second.append(torch.autograd.grad(sum(g.square().sum() for g in first), wanted))
    for ours, exact in zip(*second, strict=True):
        assert (ours - exact).abs().max() <= 1e-4 * exact.abs().max().clamp_min(1e-3)


# --- the modules -------------------------------------------------------------------------------------------------


def unit(channels: int = 16, **options: Any) -> tuple[nn.BatchNorm2d, senet.SqueezeExcite]:
    torch.manual_seed(3)
    norm, se = nn.BatchNorm2d(channels, **options), senet.SqueezeExcite(channels, 4)
    for parameter in (*norm.parameters(), *se.parameters()):
        nn.init.normal_(parameter)
    return norm, se


def by_modules(x: Tensor, norm: nn.Module, se: nn.Module, shortcut: Tensor) -> Tensor:
    return torch.relu(shortcut + se(norm(x)))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls of the operator."""
    calls: list[int] = []
    real = home.bn_se_add_relu

    def counting(*arguments: Any) -> Any:
        calls.append(1)
        return real(*arguments)

    monkeypatch.setattr(home, "bn_se_add_relu", counting)
    return calls


def maps(n: int = 4, channels: int = 16, **options: Any) -> tuple[Tensor, Tensor]:
    x, shortcut = inputs((n, channels, 6, 5), **options)[:2]
    assert x is not None
    assert shortcut is not None
    return x, shortcut


@needs_kernel
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("track", [True, False])
def test_running_statistics_move_as_those_of_torch(momentum: float | None, track: bool, fused: list[int]) -> None:
    norm, se = unit(momentum=momentum, track_running_stats=track)
    other = copy.deepcopy(norm)
    for seed in range(3):
        x, shortcut = maps(seed=seed, mean=3.0)
        torch.testing.assert_close(tail(x, norm, se, shortcut), by_modules(x, other, se, shortcut))
    for name, value in other.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value, rtol=2e-6, atol=1e-7)
    norm.eval()
    other.eval()
    torch.testing.assert_close(tail(x, norm, se, shortcut), by_modules(x, other, se, shortcut))
    if track:
        assert norm.num_batches_tracked == 3
    assert len(fused) == 4


def test_one_value_a_channel_is_the_norms_own_error() -> None:
    norm, se = unit()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        tail(torch.ones(1, 16, 1, 1), norm, se, torch.ones(1, 16, 1, 1))


@pytest.mark.parametrize("watched", ["norm", "se", "se.fc1", "global"])
def test_hooks_see_everything(watched: str, fused: list[int]) -> None:
    norm, se = unit()
    x, shortcut = maps()
    expected = by_modules(x, copy.deepcopy(norm), se, shortcut)
    seen: list[Any] = []
    hook = lambda module, args, output: seen.append(module)  # noqa: E731
    if watched == "global":
        handle = nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = {"norm": norm, "se": se, "se.fc1": se.fc1}[watched].register_forward_hook(hook)
    try:
        assert torch.equal(tail(x, norm, se, shortcut), expected)
    finally:
        handle.remove()
    assert seen
    assert not fused


@pytest.mark.parametrize(
    "case",
    ["float64", "float16", "sync", "max", "eca", "other type", "vmap", "forward ad", "gate"],
)
def test_what_the_kernel_does_not_know_goes_through_the_modules(case: str, fused: list[int]) -> None:
    norm, se = unit()
    attention: nn.Module = se
    x, shortcut = maps()
    if case in ("float64", "float16"):
        kind = getattr(torch, case)
        x, shortcut, norm, attention = x.to(kind), shortcut.to(kind), norm.to(kind), se.to(kind)
    elif case == "sync":
        norm = nn.SyncBatchNorm(16)  # type: ignore[assignment]
        norm.eval()
    elif case == "max":
        attention = senet.SqueezeExcite(16, 4, squeeze="max")
    elif case == "eca":
        attention = senet.ECA().build(16)
    elif case == "other type":
        shortcut = shortcut.bfloat16()
    elif case == "gate":
        se.gate = lambda x: x.new_full((len(x), 16, 1, 1), 0.5)  # type: ignore[method-assign]
    norm.eval()
    compute = lambda function: function(x, norm, attention, shortcut)  # noqa: E731
    if case == "vmap":
        many = torch.stack([x, 2 * x])
        ours = torch.vmap(lambda one: tail(one, norm, attention, shortcut))(many)
        theirs = torch.stack([by_modules(one, norm, attention, shortcut) for one in many])
    elif case == "forward ad":
        with torch.autograd.forward_ad.dual_level():
            x = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            ours, theirs = (torch.autograd.forward_ad.unpack_dual(compute(f)).tangent for f in (tail, by_modules))
    else:
        ours, theirs = compute(tail), compute(by_modules)
    torch.testing.assert_close(ours, theirs)
    assert not fused


@needs_kernel
def test_norm_and_relu_alone(fused: list[int]) -> None:
    norm, _ = unit()
    x, _ = maps()
    torch.testing.assert_close(norm_relu(x, norm, nn.ReLU(inplace=True)), torch.relu(copy.deepcopy(norm)(x)))
    assert len(fused) == 1
    assert torch.equal(norm_relu(x, norm, nn.Sigmoid()), torch.sigmoid(copy.deepcopy(norm)(x)))
    assert len(fused) == 1


# --- networks -----------------------------------------------------------------------------------------------------


def network(name: str = "se_resnet50_v1_5", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = senet.create_model(name, num_classes=5, **{"depths": (1, 1), **options})
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, -0.5, 1)
    return model


IMAGES = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(2)).contiguous(
    memory_format=torch.channels_last
)


@needs_kernel
@pytest.mark.parametrize("name", ["se_resnet50_v1_5", "resnet18", "se_resnext50_32x4d"])
def test_a_step_of_a_network_is_the_one_of_its_modules(
    name: str, monkeypatch: pytest.MonkeyPatch, fused: list[int]
) -> None:
    model = network(name)
    plain = copy.deepcopy(model)
    loss = model(IMAGES).square().mean()
    loss.backward()
    assert fused
    monkeypatch.setattr(home, "_is_large", lambda x, attention: False)
    expected = plain(IMAGES).square().mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert list(model.state_dict()) == list(plain.state_dict())
    for (key, ours), (_, theirs) in zip(model.state_dict().items(), plain.state_dict().items(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=key)


@needs_kernel
def test_autocast_in_bfloat16(fused: list[int]) -> None:
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        model(IMAGES).float().sum().backward()
    assert len(fused) == 7
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@needs_kernel
def test_copies_and_pickles(fused: list[int]) -> None:
    model = network().eval()
    expected = model(IMAGES)
    assert torch.equal(copy.deepcopy(model)(IMAGES), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(IMAGES), expected)
    assert len(fused) == 3 * 7


@pytest.mark.parametrize("se", [True, False])
def test_export_sees_plain_operators(se: bool) -> None:
    model = network("se_resnet50_v1_5" if se else "resnet50_v1_5").eval()
    exported = torch.export.export(model, (IMAGES,))
    targets = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert targets
    assert all(target.startswith("aten.") for target in targets), targets
    torch.testing.assert_close(exported.module()(IMAGES), model(IMAGES))


@pytest.mark.parametrize("training", [True, False])
def test_compiled_in_one_graph(training: bool) -> None:
    """A training step with the operator, which is faster than what Inductor fuses; inference as plain operators."""
    model, seen = network().train(training), []

    def looked_at(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    twin = copy.deepcopy(model)
    with torch.set_grad_enabled(training):
        found, expected = torch.compile(twin, fullgraph=True, backend=looked_at)(IMAGES), model(IMAGES)
    torch.testing.assert_close(found, expected)
    assert any("senet.bn_se_add_relu" in target for target in seen) == (training and choose().library is not None)
    if training:
        found.square().mean().backward()
        expected.square().mean().backward()
        for mine, theirs in zip(twin.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad)
        for mine, theirs in zip(twin.buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_traced() -> None:
    model = network().eval()
    torch.testing.assert_close(torch.jit.trace(model, IMAGES)(IMAGES), model(IMAGES))


@needs_kernel
def test_the_operators_are_registered_whole() -> None:
    values = inputs((2, 8, 4, 4))
    for v, name in zip(values, NAMES, strict=True):
        assert v is not None
        v.requires_grad_(name not in ("mean", "var"))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.senet.bn_se_add_relu, (*values, True, 1e-5, 0), test_utils=checks)


@needs_kernel
def test_the_kept_memory_of_se_is_that_of_its_plain_twin() -> None:
    def kept(model: nn.Module) -> int:
        sizes: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            sizes[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(images)
        return sum(size for place, size in sizes.items() if place not in own)

    images = torch.randn(2, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    assert kept(network()) < 1.02 * kept(network("resnet50_v1_5"))
