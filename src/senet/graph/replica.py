"""Copy a network and run the copy, so that the original doesn't change."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet.graph.closures import Closures
from senet.nn.modes import uncompiled

__all__ = ["replica", "running"]


def replica(model: nn.Module, *, meta: bool) -> nn.Module:
    """Return a copy of a network, in evaluation mode.

    Args:
        model: Any module.
        meta: Whether its tensors are on the meta device, without contents.
    """
    closures = Closures(model)
    known = closures.memo | _tensors_that_cannot_be_copied(model)
    if meta:
        known |= _without_contents(model)
    try:
        memo = dict(known)
        duplicate = copy.deepcopy(model, memo)
    except Exception:  # something in it can't be copied
        memo = known | _attributes_that_cannot_be_copied(model, known, closures)
        duplicate = copy.deepcopy(model, memo)
    closures.finish(memo)
    return duplicate.eval()


def _without_contents(model: nn.Module) -> dict[int, Any]:
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        bare = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare
    return memo


def _tensors_that_cannot_be_copied(model: nn.Module) -> dict[int, Any]:
    """Detach and copy stored results of autograd (the weight of old weight norm, a stored feature map)."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for leaf in tree_leaves({name: value for name, value in vars(module).items() if name != "_modules"}):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                memo[id(leaf)] = leaf.detach().clone()
    return memo


def _attributes_that_cannot_be_copied(model: nn.Module, memo: dict[int, Any], closures: Closures) -> dict[int, Any]:
    """Return locks, files, libraries and similar objects, which the copy then shares."""
    shared: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if not closures.refers(value):
                try:
                    copy.deepcopy(value, dict(memo))
                except Exception:
                    shared[id(value)] = value
    return shared


@contextmanager
def running(model: nn.Module, *, meta: bool) -> Iterator[None]:
    """Prepare for running a replica: no gradients, no compiled code. Random generators are restored after it."""
    devices = {t.device for t in model.parameters() if t.device.type not in ("cpu", "meta")}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(uncompiled())
        stack.enter_context(_random_generators_restored(devices))
        if meta:
            stack.enter_context(torch.device("meta"))
        yield


@contextmanager
def _random_generators_restored(devices: set[torch.device]) -> Iterator[None]:
    """Restore the random generators of torch, Python and NumPy after the block."""
    python, numpy = random.getstate(), sys.modules.get("numpy")
    of_numpy = None if numpy is None else numpy.random.get_state()
    kind = next((device.type for device in devices), "cuda")
    try:
        with torch.random.fork_rng(devices=sorted(d.index or 0 for d in devices), device_type=kind):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(of_numpy)
