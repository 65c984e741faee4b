"""Surgery on compiled networks: gates take part, learn, and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from user_networks import (
    IMAGES,
    Residuals,
    gates,
    randomise_gates,
)

import senet
from senet.surgery import apply_insertion_points


def outer(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    compiled = torch.compile(model, backend="eager")
    return compiled, compiled


def inner(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    return torch.compile(model, backend="eager"), model


def in_place(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.compile(backend="eager")
    return model, model


def part(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.blocks[0] = torch.compile(model.blocks[0], backend="eager")
    model.blocks[1].compile(backend="eager")
    return model, model


def place(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.blocks[0].norm2 = torch.compile(model.blocks[0].norm2, backend="eager")
    return model, model


def method(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model, model


def step(model: Residuals) -> tuple[Callable[..., Any], nn.Module]:
    return torch.compile(lambda x: model(x), backend="eager"), model


@pytest.mark.parametrize(
    "compiling",
    [outer, in_place, part, method, *(pytest.param(how, marks=pytest.mark.slow) for how in (inner, place, step))],
)
def test_compiled_networks_use_train_and_lose_their_gates(compiling: Callable[..., Any]) -> None:
    model = Residuals().train()
    run, given = compiling(model)
    original = run(IMAGES)
    original.sum().backward()
    keys = list(model.state_dict())
    report = senet.retrofit(given, example_inputs=IMAGES)
    assert [site.path for site in report.inserted] == ["blocks.0.norm2", "blocks.1.norm2"]
    assert torch.equal(run(IMAGES), original)
    run(IMAGES).square().sum().backward()
    train_metrics = [
        p.grad is not None and bool(p.grad.any()) for gate in gates(model).values() for p in gate.parameters()
    ]
    assert train_metrics == [False, False, True, True] * 2  # at the start nothing passes the zeros of the second layer
    assert not senet.retrofit(given, example_inputs=IMAGES).inserted
    randomise_gates(model)
    assert not torch.allclose(run(IMAGES), original)
    assert [site.path for site in senet.remove(given).inserted] == ["blocks.0.norm2", "blocks.1.norm2"]
    assert torch.equal(run(IMAGES), original)
    assert list(model.state_dict()) == keys
    plain = Residuals()
    apply_insertion_points(plain, report.inserted)
    assert len(gates(plain)) == 2
    assert len(senet.plan(given, where="blocks.1", example_inputs=IMAGES).inserted) == 1


def test_a_plan_leaves_compiled_code_alone() -> None:
    compilations = 0

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal compilations
        compilations += 1
        return graph.forward

    model = torch.compile(Residuals().eval(), backend=backend)
    model(IMAGES)
    before = compilations
    senet.plan(model, example_inputs=IMAGES)
    model(IMAGES)
    assert compilations == before > 0


def test_sites_of_a_compiled_network_fit_under_their_old_names_too() -> None:
    [site, _] = senet.plan(Residuals(), example_inputs=IMAGES).inserted
    old = dataclasses.replace(site, path=f"_orig_mod.{site.path}")
    for model in (Residuals(), torch.compile(Residuals(), backend="eager")):
        apply_insertion_points(model, [old])
        assert len(gates(model)) == 1
