"""Run a copy of a network, so that whatever the run does leaves the network as it is."""

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
    """A copy of a network, in evaluation mode.

    Args:
        model: Any module.
        meta: Its tensors get shapes and no contents.
    """
    closures = Closures(model)
    known = closures.memo | _tensors_that_cannot_be_copied(model)
    if meta:
        known |= _without_contents(model)
    try:
        memo = dict(known)
        twin = copy.deepcopy(model, memo)
    except Exception:  # something in it can't be copied
        memo = known | _attributes_that_cannot_be_copied(model, known, closures)
        twin = copy.deepcopy(model, memo)
    closures.finish(memo)
    return twin.eval()


def _without_contents(model: nn.Module) -> dict[int, Any]:
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        bare = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(bare, requires_grad=False) if isinstance(tensor, nn.Parameter) else bare
    return memo


def _tensors_that_cannot_be_copied(model: nn.Module) -> dict[int, Any]:
    """What autograd computed and a module keeps (old weight norm's weight, a stored feature map), detached."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for leaf in tree_leaves({name: value for name, value in vars(module).items() if name != "_modules"}):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                memo[id(leaf)] = leaf.detach().clone()
    return memo


def _attributes_that_cannot_be_copied(model: nn.Module, memo: dict[int, Any], closures: Closures) -> dict[int, Any]:
    """Locks, files, libraries and the like, which the copy then shares."""
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
    """Within the block a replica can run: no gradients, no compiled code; random numbers are given back."""
    devices = {t.device for t in model.parameters() if t.device.type not in ("cpu", "meta")}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(uncompiled())
        stack.enter_context(_random_numbers_kept(devices))
        if meta:
            stack.enter_context(torch.device("meta"))
        yield


@contextmanager
def _random_numbers_kept(devices: set[torch.device]) -> Iterator[None]:
    """Give torch's, Python's and NumPy's generators their states back."""
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
