"""Derivatives of every kind: twice, in batches, of single inputs, mapped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.nn import SqueezeExcite
from senet.nn.epilogue import residual_epilogue
from senet.ops import GATE_FUNCTIONS
from senet.ops.bn_se_add_relu import definition, derivative


def by_modules(x: Tensor, norm: nn.Module, se: nn.Module, shortcut: Tensor) -> Tensor:
    return torch.relu(shortcut + se(norm(x)))


@pytest.mark.parametrize("gate", range(len(GATE_FUNCTIONS)))
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shortcut", [True, False], ids=["add", "no add"])
def test_the_derivative_is_that_of_the_definition(gate: int, training: bool, shortcut: bool) -> None:
    generator = torch.Generator().manual_seed(gate)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    maps = [some(3, 8, 4, 3), some(3, 8, 4, 3) if shortcut else None]
    parameters = [
        some(8),
        some(8),
        some(8).detach(),
        some(8).detach().abs() + 0.3,
        some(3, 8),
        some(3),
        some(8, 3),
        some(8),
    ]
    leaves = [t for t in (*maps, *parameters) if t is not None and t.requires_grad]
    y = definition(*maps, *parameters, training, 1e-5, gate)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(y, leaves, dy)
    found = derivative(dy, maps[0], y if shortcut else None, *parameters, training, 1e-5, gate)
    for ours, theirs in zip([g for g in found if g is not None], expected, strict=True):
        # PyTorch's own hard sigmoid has a sixth in float32, in float64 too.
        limit = 1e-6 if gate in (2, 3) else 1e-9
        torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit)


@pytest.mark.parametrize("wanted", ["shortcut", "x", "gamma", "fc2"])
def test_twice_with_one_input_that_wants_a_gradient(wanted: str) -> None:
    torch.manual_seed(0)
    norm, se = nn.BatchNorm2d(8), SqueezeExcite(8, 2)
    x, shortcut = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    for parameter in (*norm.parameters(), *se.parameters()):
        nn.init.normal_(parameter).requires_grad_(False)
    leaf = {"shortcut": shortcut, "x": x, "gamma": norm.weight, "fc2": se.fc2.weight}[wanted].requires_grad_()
    second = []
    for compute in (residual_epilogue, by_modules):
        y = compute(x, norm, se, shortcut)
        (first,) = torch.autograd.grad(y.pow(3).sum(), leaf, create_graph=True)
        assert first.grad_fn is not None
        second.append(torch.autograd.grad(first.square().sum(), leaf)[0])
    torch.testing.assert_close(*second, rtol=1e-3, atol=1e-4 * float(second[1].abs().max()))


def network() -> nn.Module:
    torch.manual_seed(0)
    model = senet.create_model("se_cifar_resnet20", depth=1, num_classes=3).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.2, 1)
    return model


def test_gradients_in_batches() -> None:
    model, x = network(), torch.randn(1, 3, 8, 8)
    expected = torch.autograd.functional.jacobian(model, x)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(torch.autograd.functional.jacobian(model, x, vectorize=True), expected)
    y = model(x.requires_grad_())
    (found,) = torch.autograd.grad(y, x, torch.eye(3)[:, None], is_grads_batched=True)
    torch.testing.assert_close(found, expected[0])
    torch.testing.assert_close(torch.func.jacrev(model)(x.detach()), expected)


@pytest.mark.parametrize("optimized", [False, True])
def test_mapped_over_a_network(optimized: bool) -> None:
    model = senet.optimize(network())[0] if optimized else network()
    many = torch.randn(3, 2, 3, 16, 16)
    with torch.no_grad():
        found = torch.func.vmap(model)(many)
        torch.testing.assert_close(found[1], model(many[1]), rtol=1e-4, atol=1e-5)


def test_the_operator_itself_is_mapped() -> None:
    x, scale = torch.randn(3, 2, 8, 4, 4), torch.rand(8)
    others: tuple[Any, ...] = (None, scale, None, None, None, None, None, None, None, True, 1e-5, 0)
    found = torch.vmap(lambda one: torch.ops.senet.bn_se_add_relu(one, *others)[0])(x)
    expected = torch.stack([definition(one, *others) for one in x])
    torch.testing.assert_close(found, expected)


def test_statistics_that_are_not_tracked_stay() -> None:
    norm = nn.BatchNorm2d(8).train()
    norm.track_running_stats = False
    x = torch.randn(4, 8, 5, 5) + 3
    residual_epilogue(x, norm, nn.Identity(), x)
    assert torch.equal(norm.running_mean, torch.zeros(8))
    assert norm.num_batches_tracked == 0
    norm.eval()
    twin = nn.BatchNorm2d(8).eval()
    torch.testing.assert_close(residual_epilogue(x, norm, nn.Identity(), x), torch.relu(x + twin(x)))
