"""Passes over feature maps, counted from the addresses that the kernels load and store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

from senet.ops import bn_se_add_relu, scale_add_relu_
from senet.ops.bn_act_se import bn_act_se
from senet.ops.triton import plan

SHAPE = (2, 16, 16, 18)
ELEMENTS = 2 * 16 * 16 * 18


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], dict[str, float]]:
    """Runs a computation and returns how many feature maps its kernels loaded and stored."""
    monkeypatch.setattr(plan, "PROGRAMS", 2)  # one part a sample, so that pivots are few
    counted: Counter[str] = Counter()
    masked_load, masked_store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def count(kind: str, pointers: Any, mask: Any) -> None:
        if pointers.data.ndim == 2 and pointers.data.shape[0] > 1:  # tiles of maps; the rest are vectors
            counted[kind] += len(np.unique(pointers.data[mask.data.astype(bool)]))

    def load(self: Any, pointers: Any, mask: Any, *others: Any) -> Any:
        count("loads", pointers, mask)
        return masked_load(self, pointers, mask, *others)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *others: Any) -> Any:
        count("stores", pointers, mask)
        return masked_store(self, pointers, value, mask, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", load)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", store)

    def run(compute: Callable[[], Any]) -> dict[str, float]:
        counted.clear()
        compute()
        return {kind: counted[kind] / ELEMENTS for kind in ("loads", "stores")}

    return run


def near(loads: int, stores: int) -> Any:
    """Vectors and partial sums add a little."""
    return pytest.approx({"loads": loads, "stores": stores}, abs=0.03)


def a_map() -> Tensor:
    return torch.randn(SHAPE).contiguous(memory_format=torch.channels_last)


def parameters() -> list[Tensor]:
    return [torch.randn(16).requires_grad_(), torch.randn(16).requires_grad_()]


def layers() -> list[Tensor]:
    return [torch.randn(s).requires_grad_() for s in ((4, 16), (4,), (16, 4), (16,))]


@pytest.mark.parametrize("se", [True, False], ids=["se", "plain"])
def test_the_residual_end_takes_four_passes_forward_and_seven_backward(se: bool, traffic: Any) -> None:
    x, shortcut = a_map().requires_grad_(), a_map().requires_grad_()
    results: list[Tensor] = []

    def forward() -> None:
        gate = layers() if se else [None] * 4
        results.append(bn_se_add_relu(x, shortcut, *parameters(), None, None, *gate, True, 1e-5, 0)[0])

    dy = a_map()
    assert traffic(forward) == near(3, 1)
    assert traffic(lambda: results[0].backward(dy)) == near(5, 2)


def test_a_norm_and_its_relu_take_three_passes_forward_and_five_backward(traffic: Any) -> None:
    x = a_map().requires_grad_()
    results: list[Tensor] = []

    def forward() -> None:
        results.append(bn_se_add_relu(x, None, *parameters(), None, None, *[None] * 4, True, 1e-5, 0)[0])

    dy = a_map()
    assert traffic(forward) == near(2, 1)
    assert traffic(lambda: results[0].backward(dy)) == near(4, 1)


def test_norm_activation_and_gate_take_four_passes_forward_and_five_backward(traffic: Any) -> None:
    x = a_map().requires_grad_()
    results: list[Tensor] = []

    def forward() -> None:
        options = {"training": True, "eps": 1e-5, "activation": 3, "hidden_activation": 1, "gate": 0}
        results.append(bn_act_se(x, *parameters(), None, None, *layers(), **options))

    dy = a_map()
    assert traffic(forward) == near(3, 1)
    assert traffic(lambda: results[0].backward(dy)) == near(4, 1)


def test_inference_rescales_in_one_pass(traffic: Any) -> None:
    x, shortcut, gate = a_map(), a_map(), torch.rand(2, 16)
    assert traffic(lambda: scale_add_relu_(x, gate, shortcut)) == near(2, 1)
