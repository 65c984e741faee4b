"""Norm, activation and gate: the operator against its definition in float64, in any form, and derived twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from odd import forms, in_form
from torch import Tensor

from senet.ops import choose, using
from senet.ops.activation_functions import ACTIVATION_FUNCTIONS, ACTIVATION_SLOPES, ACTIVATIONS
from senet.ops.bn_act_gate import _excite_back, _squeeze_back, bn_act_gate, definition

needs_kernel = pytest.mark.skipif(choose().library is None, reason=f"no compiled kernel: {choose().reason}")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}


def values(shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, seed: int = 0) -> list[Tensor]:
    """x, gamma, beta, running mean and variance, and two linear layers of a gate."""
    g = torch.Generator().manual_seed(seed)
    c = shape[1]
    hidden = max(1, c // 4)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g)

    x = (2 * normal(*shape) + 1).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    norm = [normal(c) + 0.5, normal(c), normal(c), torch.rand(c, generator=g) + 0.5]
    return [x, *norm, normal(hidden, c) / c**0.5, normal(c, hidden)]


def derived(
    compute: Callable[..., Any], given: list[Tensor], dy: Tensor, *, training: bool, activation: int
) -> list[Tensor]:
    """The result, the statistics, and the gradients of x, gamma, beta and the gate's layers."""
    x, gamma, beta, mean, var, w1, w2 = given
    leaves = [t.detach().requires_grad_() for t in (x, gamma, beta, w1, w2)]

    def gate_of(z: Tensor) -> Tensor:
        return torch.sigmoid(F.silu(z.flatten(1) @ leaves[3].T) @ leaves[4].T)[:, :, None, None]

    y, statistics = compute(
        *leaves[:3], mean, var, gate_of, training=training, eps=1e-3, activation=activation
    )  # fmt: skip
    gradients = torch.autograd.grad(y, leaves, dy.to(y.dtype))
    return [y.detach(), *([statistics] if training else []), *gradients]


def assert_agrees(given: list[Tensor], dy: Tensor, **options: Any) -> None:
    """With float64, to rounding: within ten times the error of the definition in the same type where that is more."""
    exact = derived(definition, [None if t is None else t.double() for t in given], dy.double(), **options)
    usual = derived(definition, given, dy, **options)
    found = derived(bn_act_gate, given, dy, **options)
    for right, plain, ours in zip(exact, usual, found, strict=True):
        error, plain_error = (ours.double() - right).norm(), (plain.double() - right).norm()
        assert error <= 10 * plain_error + TOLERANCE[given[0].dtype] * (right.norm() + 1e-2)


@needs_kernel
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)), ids=ACTIVATIONS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 9), st.integers(2, 9)),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(sorted(LAYOUTS)),
    st.booleans(),
)
def test_equals_the_definition(
    activation: int, shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, training: bool
) -> None:
    given = values(shape, dtype, layout)
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert_agrees(given, dy, training=training, activation=activation)


@needs_kernel
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(sorted(LAYOUTS)),
    st.integers(0, len(ACTIVATIONS) - 1),
)
def test_without_a_norm(shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str, activation: int) -> None:
    given = values(shape, dtype, layout)
    given[3] = given[4] = None  # type: ignore[call-overload]
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert_agrees(given, dy, training=False, activation=activation)


@needs_kernel
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("shape", [(2, 40, 112, 112), (1, 3, 300, 301), (3, 520, 7, 7)])
def test_large_maps(shape: tuple[int, int, int, int], layout: str) -> None:
    """More than one task a sample, more channels than one panel, and a mean far from zero."""
    given = values(shape, torch.float32, layout)
    given[0] = given[0] + 100
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert_agrees(given, dy, training=True, activation=ACTIVATIONS.index("silu"))


@needs_kernel
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(forms, min_size=8, max_size=8), st.booleans(), st.sampled_from(sorted(LAYOUTS)))
def test_odd_strides(chosen: list[str], training: bool, layout: str) -> None:
    given = [in_form(t, f) for t, f in zip(values((3, 8, 5, 4), torch.float32, layout), chosen[:7], strict=True)]
    given[4] = given[4].abs() + 0.1
    dy = in_form(torch.randn((3, 8, 5, 4), generator=torch.Generator().manual_seed(1)), chosen[7])
    assert_agrees(given, dy, training=training, activation=3)


@pytest.mark.parametrize("choice", ["compiled", "reference"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: torch.ones(7)}, "gamma has shape"),
        ({0: torch.ones(2, 8, 4, 4, dtype=torch.float64)}, "x is torch.float64"),
        ({3: torch.ones(8, dtype=torch.float64)}, "mean is torch.float64"),
        ({0: torch.ones(2, 8, 16)}, "x has shape"),
        ({0: torch.ones(1, 8, 1, 1)}, "more than 1 value per channel"),
    ],
)
def test_refuses(choice: str, change: dict[int, Tensor], message: str) -> None:
    given = values((2, 8, 4, 4), torch.float32, "contiguous")[:5]
    for place, tensor in change.items():
        given[place] = tensor
    with using(choice), pytest.raises(ValueError, match=message):
        bn_act_gate(*given, torch.sigmoid, training=True, eps=1e-5, activation=1)


def test_refuses_a_gate_of_another_shape_and_an_unknown_activation() -> None:
    given = values((2, 8, 4, 4), torch.float32, "contiguous")[:5]
    with pytest.raises(ValueError, match=r"the gate has shape \(2, 8\)"):
        bn_act_gate(*given, lambda z: z.flatten(1), training=True, eps=1e-5, activation=1)
    with pytest.raises(ValueError, match="activation=6"):
        bn_act_gate(*given, torch.sigmoid, training=True, eps=1e-5, activation=6)
    with pytest.raises(ValueError, match="needs both mean and var"):
        bn_act_gate(*given[:4], None, torch.sigmoid, training=False, eps=1e-5, activation=1)


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 8, 0, 4)])
def test_nothing_to_compute(shape: tuple[int, ...]) -> None:
    norm = values((2, 8, 4, 4), torch.float32, "contiguous")[1:5]
    y, _ = bn_act_gate(torch.ones(shape), *norm, torch.sigmoid, training=False, eps=1e-5, activation=3)
    assert y.shape == shape


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [0, 3, 4, 5])
def test_plain_gradients_equal_autograd(training: bool, activation: int) -> None:
    """The two backward functions in plain PyTorch, float64: first derivatives here, second ones by gradgradcheck."""
    x, gamma, beta, mean, var, *_ = (t.double() for t in values((2, 3, 3, 2), torch.float32, "contiguous"))
    leaves = [t.requires_grad_() for t in (x, gamma, beta)]
    gate = torch.rand(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    dy, dz = torch.randn(2, 3, 3, 2, dtype=torch.float64), torch.randn(2, 3, 1, 1, dtype=torch.float64)
    norm = (mean, var, training, 1e-3)
    means: list[Tensor] = []

    def gate_of(z: Tensor) -> Tensor:
        means.append(z)
        return gate

    y, _ = definition(*leaves, mean, var, gate_of, training=training, eps=1e-3, activation=activation)
    right = torch.autograd.grad(y, [*leaves, gate], dy, retain_graph=True)
    dx, dgate, dgamma, dbeta = _excite_back(dy, x, gate, gamma, beta, *norm, activation)
    for ours, expected in zip((dx, dgamma, dbeta, dgate), right, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
    right = torch.autograd.grad(means[0], leaves, dz)
    for ours, expected in zip(_squeeze_back(dz, x, gamma, beta, *norm, activation), right, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)

    def both(*given: Tensor) -> tuple[Tensor, ...]:
        dy, dz, x, gamma, beta, gate = given
        found = (*_excite_back(dy, x, gate, gamma, beta, *norm, activation),
                 *_squeeze_back(dz, x, gamma, beta, *norm, activation))  # fmt: skip
        return tuple(t for t in found if t is not None)

    assert torch.autograd.gradcheck(both, (dy.requires_grad_(), dz.requires_grad_(), *leaves, gate))


@pytest.mark.parametrize(("function", "slope"), zip(ACTIVATION_FUNCTIONS, ACTIVATION_SLOPES, strict=True))
def test_slopes(function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> None:
    v = torch.linspace(-7.05, 7.05, 200, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(slope(v), torch.autograd.grad(function(v).sum(), v)[0], rtol=1e-9, atol=1e-9)


@needs_kernel
@pytest.mark.parametrize("training", [True, False])
def test_under_transforms(training: bool) -> None:
    """`vmap`, forward derivatives and per-sample gradients: the plain operations, which have all rules."""
    x, gamma, beta, mean, var, *_ = values((2, 8, 6, 6), torch.float32, "contiguous")

    def compute(x: Tensor) -> Tensor:
        return bn_act_gate(x, gamma, beta, mean, var, torch.sigmoid, training=training, eps=1e-3, activation=3)[0]

    several = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.func.vmap(compute)(several), torch.stack([compute(x), compute(2 * x)]))
    along = torch.randn_like(x)
    _, slope = torch.func.jvp(compute, (x,), (along,))
    step = 1e-2
    torch.testing.assert_close(
        slope, (compute(x + step * along) - compute(x - step * along)) / (2 * step), rtol=1e-2, atol=1e-2
    )


@needs_kernel
def test_backward_again_and_in_part() -> None:
    """Kept graphs, gradients of the gate alone, and a second derivative after that."""
    given = values((2, 8, 6, 6), torch.float32, "channels_last")
    leaves = [t.requires_grad_() for t in given[:3]]
    weight = torch.ones(8, requires_grad=True)

    def gate_of(z: Tensor) -> Tensor:
        return torch.sigmoid(z * weight[:, None, None])

    y, _ = bn_act_gate(*leaves, None, None, gate_of, training=True, eps=1e-5, activation=3)
    first = torch.autograd.grad(y.square().sum(), [*leaves, weight], retain_graph=True)
    [alone] = torch.autograd.grad(y.square().sum(), [weight], retain_graph=True)
    again = torch.autograd.grad(y.square().sum(), [*leaves, weight], retain_graph=True)
    assert torch.equal(alone, first[-1])
    assert all(map(torch.equal, first, again))
    twice = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
    for ours, plain in zip(first, twice, strict=False):
        torch.testing.assert_close(ours, plain.detach(), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(torch.autograd.grad(twice[0].square().sum(), leaves[0])[0]).all()


@needs_kernel
def test_keeps_x_and_vectors() -> None:
    x, gamma, beta, *_ = values((4, 32, 28, 28), torch.float32, "channels_last")
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    x.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        bn_act_gate(x, gamma, beta, None, None, torch.sigmoid, training=True, eps=1e-5, activation=3)
    assert sum(kept.values()) < 1.02 * x.nbytes
