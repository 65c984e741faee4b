"""The residual epilogue in Triton against its definition in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ops.interpreted.agreement import TYPES, assert_map, assert_small
from ops.test_ops_bn_se_add_relu import derived, inputs
from torch import Tensor, nn

import senet
from senet.nn import epilogue
from senet.ops import bn_se_add_relu, scale_add_relu_
from senet.ops.backend import backend_for
from senet.ops.bn_se_add_relu import definition
from senet.ops.gate_functions import GATE_FUNCTIONS
from senet.ops.scale_add_relu import definition as scaled

MAPS = ("y", "x", "shortcut")


def operator(*arguments: Any) -> Tensor:
    return bn_se_add_relu(*arguments)[0]


def assert_agrees(values: list[Tensor | None], *, training: bool, gate: int = 0) -> None:
    options = (training, 1e-5, gate)
    exact = [v if v is None else v.double() for v in values]
    x = values[0]
    assert x is not None
    backend = backend_for(x)
    assert backend is not None
    assert backend.name == "triton"
    # A value within rounding of zero may be on either side of the ReLU: it gets no gradient here.
    same = (operator(*values, *options) > 0) == (definition(*exact, *options) > 0)
    dy = (torch.randn(x.shape, generator=torch.Generator().manual_seed(5)) * same).to(x.dtype)
    dy = dy.contiguous(memory_format=torch.channels_last)
    found, plain = derived(operator, values, dy, options), derived(definition, values, dy, options)
    terms = float(dy.double().abs().sum()) / x.shape[1]
    assert found["y"].stride() == x.stride()
    for name, exactly in derived(definition, exact, dy, options).items():
        if name in MAPS:
            assert_map(found[name], exactly, plain[name])
        else:
            assert_small(name, found[name], exactly, plain[name], terms)


SHAPES = [(2, 1, 7, 5), (3, 3, 5, 7), (2, 17, 7, 7), (2, 130, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_any_shape(shape: tuple[int, ...], dtype: str) -> None:
    """With a gate and a shortcut, without one of them, and both modes of the norm in turn."""
    case = SHAPES.index(shape) + list(TYPES).index(dtype)
    options = ({}, {"se": False}, {"shortcut": False})[case % 3]
    assert_agrees(inputs(shape, dtype=TYPES[dtype], **options), training=case % 2 == 0)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", [{}, {"se": False}, {"shortcut": False}], ids=["all", "no gate", "no shortcut"])
def test_several_parts(options: dict[str, bool], training: bool) -> None:
    assert_agrees(inputs((2, 20, 9, 7), **options), training=training)


@pytest.mark.parametrize("gate", range(len(GATE_FUNCTIONS)))
def test_every_gate(gate: int) -> None:
    assert_agrees(inputs((2, 6, 2, 1), seed=1), training=True, gate=gate)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("shape", [(2, 20, 9, 7), (2, 20, 2, 2)], ids=str)
def test_a_large_mean_does_not_cancel(shape: tuple[int, ...]) -> None:
    """Also if the map's first pixel is far from all others."""
    values = inputs(shape)
    x = values[0]
    assert x is not None
    values[0] = ((x * 64).round() / 64 + 10000).contiguous(memory_format=torch.channels_last)
    for first in (None, 0.0):
        if first is not None:
            values[0][0, :, 0, 0] = first
        exact = [v if v is None else v.double() for v in values]
        truth = definition(*exact, True, 1e-5, 0)
        plainly = (definition(*values, True, 1e-5, 0) - truth).abs().max()
        off = (operator(*values, True, 1e-5, 0) - truth).abs().max()
        # From a pixel far away, the mean of a part is rounded as any float32 near 10000.
        assert off <= max(1e-5 * truth.abs().max(), 0.0 if first is None else plainly)


def test_what_is_no_number_stays_none() -> None:
    values = inputs((2, 4, 2, 2))
    assert values[0] is not None
    values[0][1, 3, 1, 1] = float("nan")
    y = operator(*values, False, 1e-5, 0)
    assert y.isnan().any()
    assert torch.equal(y.isnan(), definition(*values, False, 1e-5, 0).isnan())


@pytest.mark.parametrize("dtype", TYPES)
def test_rescaled_in_place(dtype: str) -> None:
    x, shortcut = inputs((2, 19, 3, 5), dtype=TYPES[dtype])[:2]
    assert x is not None
    assert shortcut is not None
    gate = torch.rand(2, 19)
    plain, exact = scaled(x, gate, shortcut), scaled(x.double(), gate.double(), shortcut.double())
    scale_add_relu_(x, gate, shortcut)
    assert_map(x, exact, plain)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_block_trains_as_its_modules(momentum: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same choice as on CPUs, the same running statistics, gradients and keys."""
    calls: list[int] = []
    monkeypatch.setattr(
        epilogue, "bn_se_add_relu", lambda *a: (calls.append(1), bn_se_add_relu(*a))[1]
    )  # fmt: skip
    torch.manual_seed(3)
    norm, se = nn.BatchNorm2d(6, momentum=momentum), senet.SqueezeExcite(6, 2)
    for parameter in (*norm.parameters(), *se.parameters()):
        nn.init.normal_(parameter)
    theirs = copy.deepcopy((norm, se))
    for seed in range(2):
        x, shortcut = inputs((3, 6, 3, 2), seed=seed, mean=3.0)[:2]
        y = epilogue.residual_epilogue(x, norm, se, shortcut)
        expected = torch.relu(shortcut + theirs[1](theirs[0](x)))
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        y.square().sum().backward()
        expected.square().sum().backward()
    assert len(calls) == 2
    for mine, other in zip((norm, se), theirs, strict=True):
        for (name, a), (_, b) in zip(mine.named_parameters(), other.named_parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3, msg=name)
        for name, value in other.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=2e-6, atol=1e-6)


def test_other_layouts_and_types_use_the_definition() -> None:
    x = inputs((2, 6, 3, 2))[0]
    assert x is not None
    assert backend_for(x) is not None
    assert backend_for(x.contiguous()) is None
    assert backend_for(x.double()) is None
    assert backend_for(x[:, :3]) is None


def test_the_statistics_of_two_processes_combine() -> None:
    """Between its kernels a step can take the statistics of all processes, as a synchronized norm does."""
    from senet.ops.triton import moments
    from senet.ops.triton.apply import apply
    from senet.ops.triton.plan import plan

    x, _, gamma, beta, *_ = inputs((4, 5, 3, 2), mean=2.0)
    assert x is not None
    halves, eps = [x[:2], x[2:]], 1e-5
    partial = [moments.measure(half, half, plan(half)) for half in halves]
    statistics, saved = torch.empty(2, 2, 5), torch.empty(2, 15)
    for half, p, found, kept in zip(halves, partial, statistics, saved, strict=True):
        moments.channel_moments(p, half, None, eps, plan(half), found, kept)
    means = saved[:, :5].double() + saved[:, 5:10]
    var = (saved[:, 10:].double() ** -2 - eps + (means - means.mean(0)).square()).mean(0)
    of_all = torch.cat([means.mean(0), torch.zeros(5), (var + eps).rsqrt()]).float()
    expected = nn.functional.batch_norm(x.double(), None, None, gamma.double(), beta.double(), training=True, eps=eps)
    for i, (half, p) in enumerate(zip(halves, partial, strict=True)):
        z, y = torch.empty(2, 5), torch.empty_like(half)
        moments.sample_means(p, half, of_all, gamma, beta, plan(half), None, z)
        apply(half, None, of_all, gamma, beta, None, plan(half), y, function=0)
        torch.testing.assert_close(y.double(), expected[2 * i : 2 * i + 2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(z.double(), expected[2 * i : 2 * i + 2].mean((2, 3)), rtol=1e-5, atol=1e-5)


def test_through_the_dispatcher() -> None:
    """A profiler, a mode or a compiled graph calls the registered operator, with parameters that require gradients."""
    values = [v if v is None else v.requires_grad_(i not in (4, 5)) for i, v in enumerate(inputs((2, 5, 3, 2)))]
    wanted = [v for v in values if v is not None and v.requires_grad]
    results = []
    for compute in (bn_se_add_relu, torch.ops.senet.bn_se_add_relu):
        y, statistics, _ = compute(*values, True, 1e-5, 0)
        results.append([y, statistics, *torch.autograd.grad(y.square().sum(), wanted)])
    for direct, dispatched in zip(*results, strict=True):
        assert torch.equal(direct, dispatched)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.senet.bn_se_add_relu, (*values, True, 1e-5, 0), test_utils=checks)
