"""Norm, activation and Squeeze-and-Excitation as one operator: against its definition in float64, in any form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd import forms, in_form
from torch import Tensor

from senet.ops import choose, using
from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.bn_act_se import bn_act_se, definition
from senet.ops.gate_functions import GATE_FUNCTIONS

needs_kernel = pytest.mark.skipif(choose().library is None, reason=f"no compiled kernel: {choose().reason}")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
LEAVES = (0, 1, 2, 5, 6, 7, 8)


def values(shape: tuple[int, int, int, int], hidden: int, dtype: torch.dtype, layout: str) -> list[Tensor | None]:
    g = torch.Generator().manual_seed(0)
    c = shape[1]

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=g)

    x = (2 * normal(*shape) + 1).to(dtype).contiguous(memory_format=LAYOUTS[layout])
    norm = [normal(c) + 0.5, normal(c), normal(c), torch.rand(c, generator=g) + 0.5]
    return [x, *norm, normal(hidden, c) / c**0.5, normal(hidden), normal(c, hidden) / hidden**0.5, normal(c)]


def in_double(given: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.double() for t in given]


def derived(compute: Any, given: list[Tensor | None], dy: Tensor, **options: Any) -> list[Tensor]:
    """The result, and the gradients of all that has one."""
    leaves = [None if t is None else t.detach().requires_grad_(i in LEAVES) for i, t in enumerate(given)]
    y = compute(*leaves, **options)
    y = y[0] if isinstance(y, tuple) else y
    wanted = [leaves[i] for i in LEAVES if leaves[i] is not None]
    return [y.detach(), *torch.autograd.grad(y, wanted, dy.to(y.dtype))]


def assert_agrees(given: list[Tensor | None], dy: Tensor, **options: Any) -> None:
    """With float64, within ten times the error of the definition in the same type."""
    exact = derived(definition, in_double(given), dy.double(), **options)
    usual, found = derived(definition, given, dy, **options), derived(bn_act_se, given, dy, **options)
    dtype = given[0].dtype  # type: ignore[union-attr]
    for right, plain, ours in zip(exact, usual, found, strict=True):
        error, plain_error = (ours.double() - right).norm(), (plain.double() - right).norm()
        assert error <= 10 * plain_error + TOLERANCE[dtype] * (right.norm() + 1e-2)


@needs_kernel
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 9), st.integers(2, 9)),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from(["batch", "running", "none"]),
    st.tuples(
        st.integers(0, len(ACTIVATIONS) - 1),
        st.integers(0, len(ACTIVATIONS) - 1),
        st.integers(0, len(GATE_FUNCTIONS) - 1),
    ),
    st.booleans(),
)
def test_equals_the_definition(
    shape: tuple[int, int, int, int],
    hidden: int,
    dtype: torch.dtype,
    layout: str,
    statistics: str,
    functions: tuple[int, int, int],
    biases: bool,
) -> None:
    given = values(shape, hidden, dtype, layout)
    if statistics == "none":
        given[3] = given[4] = None
    if not biases:
        given[6] = given[8] = None
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    options = dict(zip(("activation", "hidden_activation", "gate"), functions, strict=True))
    assert_agrees(given, dy, training=statistics == "batch", eps=1e-3, **options)


@needs_kernel
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(forms, min_size=10, max_size=10), st.booleans(), st.sampled_from(sorted(LAYOUTS)))
def test_odd_strides(chosen: list[str], training: bool, layout: str) -> None:
    numbers = values((3, 8, 5, 4), 6, torch.float32, layout)
    given = [in_form(t, f) for t, f in zip(numbers, chosen[:9], strict=True)]
    given[4] = given[4].abs() + 0.1
    dy = in_form(torch.randn((3, 8, 5, 4), generator=torch.Generator().manual_seed(1)), chosen[9])
    assert_agrees(given, dy, training=training, eps=1e-3, activation=3, hidden_activation=1, gate=0)


@needs_kernel
def test_large() -> None:
    """More than one task a sample, and a mean far from zero."""
    given = values((2, 40, 112, 112), 10, torch.float32, "channels_last")
    given[0] = given[0] + 100
    dy = torch.randn((2, 40, 112, 112), generator=torch.Generator().manual_seed(1))
    assert_agrees(given, dy, training=True, eps=1e-5, activation=3, hidden_activation=3, gate=0)


@needs_kernel
def test_again_in_part_and_twice() -> None:
    """Kept graphs, gradients of some inputs alone, batches of gradients, second derivatives."""
    given = values((2, 8, 6, 6), 4, torch.float32, "channels_last")
    leaves = [t.requires_grad_(i in LEAVES) for i, t in enumerate(given)]
    options = {"training": True, "eps": 1e-5, "activation": 3, "hidden_activation": 3, "gate": 0}
    y = bn_act_se(*leaves, **options)
    wanted = [leaves[i] for i in LEAVES]
    first = torch.autograd.grad(y.square().sum(), wanted, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y.square().sum(), wanted, retain_graph=True)))
    [alone] = torch.autograd.grad(y.square().sum(), [leaves[5]], retain_graph=True)
    assert torch.equal(alone, first[3])
    twice = torch.autograd.grad(y.square().sum(), wanted, create_graph=True)
    for ours, plain in zip(first, twice, strict=True):
        torch.testing.assert_close(ours, plain.detach(), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(torch.autograd.grad(twice[0].square().sum(), leaves[0])[0]).all()
    batch = torch.randn(3, *y.shape)
    y = bn_act_se(*leaves, **options)
    together = torch.autograd.grad(y, leaves[0], batch, is_grads_batched=True, retain_graph=True)[0]
    for i in range(3):
        alone = torch.autograd.grad(y, leaves[0], batch[i], retain_graph=True)[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-4)


@needs_kernel
def test_under_transforms() -> None:
    given = values((2, 8, 6, 6), 4, torch.float32, "contiguous")
    options = {"training": False, "eps": 1e-5, "activation": 3, "hidden_activation": 3, "gate": 0}

    def compute(x: Tensor) -> Tensor:
        return bn_act_se(x, *given[1:], **options)

    x = given[0]
    torch.testing.assert_close(
        torch.func.vmap(compute)(torch.stack([x, 2 * x])), torch.stack([compute(x), compute(2 * x)])
    )
    per_sample = torch.func.vmap(torch.func.grad(lambda x: compute(x[None]).square().sum()))(x)
    alone = x.clone().requires_grad_()
    [right] = torch.autograd.grad(compute(alone).square().sum(), alone)
    torch.testing.assert_close(per_sample, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("choice", ["compiled", "reference"])
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({5: torch.ones(4, 7)}, {}, "w1 has shape"),
        ({7: torch.ones(8, 3)}, {}, "w2 has shape"),
        ({6: torch.ones(4, dtype=torch.float64)}, {}, "b1 is torch.float64"),
        ({5: torch.ones(0, 8), 6: None, 7: torch.ones(8, 0)}, {}, "no hidden unit"),
        ({4: None}, {"training": False}, "both mean and var"),
        ({}, {"gate": 8}, "gate=8"),
        ({}, {"activation": -1}, "activation=-1"),
        ({}, {"hidden_activation": 6}, "hidden_activation=6"),
        ({0: torch.ones(1, 8, 1, 1)}, {}, "more than 1 value per channel"),
    ],
)
def test_refuses(choice: str, change: dict[int, Any], options: dict[str, Any], message: str) -> None:
    given = values((2, 8, 4, 4), 4, torch.float32, "contiguous")
    for place, tensor in change.items():
        given[place] = tensor
    numbers = {"training": True, "eps": 1e-5, "activation": 1, "hidden_activation": 1, "gate": 0} | options
    with using(choice), pytest.raises(ValueError, match=message):
        bn_act_se(*given, **numbers)
