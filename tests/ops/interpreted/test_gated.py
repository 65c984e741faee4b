"""Norm, activation and gate in Triton against their definition in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.interpreted.agreement import TYPES, assert_map, assert_small
from ops.test_ops_bn_act_gate import derived, values
from torch import Tensor

from senet.ops.activation_functions import ACTIVATIONS
from senet.ops.backend import backend_for
from senet.ops.bn_act_gate import bn_act_gate, definition
from senet.ops.bn_act_se import bn_act_se
from senet.ops.bn_act_se import definition as se_definition

NAMES = ("y", "statistics", "x", "gamma", "beta", "w1", "w2")


def assert_agrees(given: list[Any], *, training: bool, activation: int) -> None:
    backend = backend_for(given[0])
    assert backend is not None
    assert backend.name == "triton"
    dy = torch.randn(given[0].shape, generator=torch.Generator().manual_seed(1)).to(given[0].dtype)
    options = {"training": training, "activation": activation}
    exact = derived(definition, [None if t is None else t.double() for t in given], dy.double(), **options)
    plain, found = derived(definition, given, dy, **options), derived(bn_act_gate, given, dy, **options)
    names = NAMES if training else tuple(n for n in NAMES if n != "statistics")
    terms = float(dy.double().abs().sum()) / dy.shape[1]
    for name, ours, right, usual in zip(names, found, exact, plain, strict=True):
        if name in ("y", "x"):
            assert_map(ours, right, usual)
        else:
            assert_small(name, ours, right, usual, terms)


@pytest.mark.parametrize("mode", ["train", "eval", "no norm"])
@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)), ids=ACTIVATIONS)
def test_every_activation(activation: int, mode: str) -> None:
    dtype = list(TYPES.values())[(activation + len(mode)) % 3]
    given: list[Any] = values((2, 17, 3, 5), dtype, "channels_last")
    if mode == "no norm":
        given[3] = given[4] = None
    assert_agrees(given, training=mode == "train", activation=activation)


@pytest.mark.parametrize("shape", [(2, 1, 7, 7), (3, 3, 7, 5), (2, 130, 1, 1)], ids=str)
def test_any_shape(shape: tuple[int, int, int, int]) -> None:
    assert_agrees(values(shape, torch.float32, "channels_last"), training=True, activation=ACTIVATIONS.index("silu"))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("activation", ["identity", "hard_swish"])
def test_several_parts(activation: str) -> None:
    given = values((2, 20, 9, 7), torch.float32, "channels_last")
    assert_agrees(given, training=True, activation=ACTIVATIONS.index(activation))


@pytest.mark.parametrize(("dtype", "biased", "training"), [("float32", True, True), ("bfloat16", False, False)])
def test_with_the_two_layers(dtype: str, biased: bool, training: bool) -> None:
    g = torch.Generator().manual_seed(3)
    given = values((3, 9, 4, 3), TYPES[dtype], "channels_last")
    hidden = len(given[5])
    biases = [torch.randn(hidden, generator=g), torch.randn(9, generator=g)] if biased else [None, None]
    tensors = [*given[:6], biases[0], given[6], biases[1]]
    options = {"training": training, "eps": 1e-3, "activation": 3, "hidden_activation": 1, "gate": 2}
    dy = torch.randn(given[0].shape, generator=g).to(given[0].dtype)

    def gradients(compute: Any, kind: torch.dtype | None) -> list[Tensor]:
        leaves = [
            None if t is None else (t if kind is None else t.to(kind)).detach().requires_grad_(i not in (3, 4))
            for i, t in enumerate(tensors)
        ]
        y = compute(*leaves, **options)
        wanted = [t for t in leaves if t is not None and t.requires_grad]
        return [y.detach(), *torch.autograd.grad(y, wanted, dy.to(y.dtype))]

    def plainly(*arguments: Any, **named: Any) -> Tensor:
        return se_definition(*arguments, **named)[0]

    rows = zip(
        gradients(bn_act_se, None), gradients(plainly, torch.float64), gradients(plainly, None), strict=True
    )  # fmt: skip
    terms = float(dy.double().abs().sum()) / 9
    for i, (ours, right, usual) in enumerate(rows):
        if i < 2:
            assert_map(ours, right, usual)
        else:
            assert_small(str(i), ours, right, usual, terms)
