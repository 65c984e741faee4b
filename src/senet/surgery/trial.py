"""Try insertions on copies of a network: each layer must run once, and the output must stay as it is."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from senet.graph.compiled import plain_modules
from senet.graph.inputs import Inputs, tensors_in
from senet.graph.replica import replica, running
from senet.surgery.apply import layer_for
from senet.surgery.insertion import CHILD, attach, without_insertions
from senet.surgery.report import InsertionPoint

__all__ = ["faults"]


def faults(model: nn.Module, inputs: Inputs, points: Sequence[InsertionPoint]) -> dict[str, str]:
    """Insert on copies of a network, run these, and say what goes wrong.

    In evaluation mode the copies have the network's weights, and the outputs are compared. A network without weights,
    or one that doesn't run for real on these inputs, runs without numbers, and so does training mode: then the layers'
    runs are counted.

    Args:
        model: The network; insertions that it has are left out.
        inputs: What to run on.
        points: What would be inserted, one site a module.

    Returns:
        Path of each site that can't have attention to the reason.
    """
    found: dict[str, str] = {}
    for training, without_numbers in ((False, (False, True)), (True, (True,))):
        kept = [point for point in points if point.path not in found]
        trials = (_trial(model, inputs, kept, meta=meta, training=training) for meta in without_numbers)
        trial = next((trial for trial in trials if kept and trial is not None), None)
        found |= trial.faults() if trial is not None else {}
    return found


def _trial(
    model: nn.Module, inputs: Inputs, points: Sequence[InsertionPoint], *, meta: bool, training: bool
) -> _Trial | None:
    """A trial, if the network as it is can run in that way."""
    try:
        return _Trial(model, inputs, points, meta=meta, training=training)
    except Exception:  # a user's network may refuse in its own way
        return None


class _Trial:
    """Runs of fresh copies, each with some of the sites.

    Args:
        model: The network.
        inputs: What it runs on.
        points: All sites in question.
        meta: Without numbers.
        training: In training mode.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, points: Sequence[InsertionPoint], *, meta: bool, training: bool
    ) -> None:
        self.model, self.points, self.training = model, points, training
        first = next(model.parameters(), torch.zeros(()))
        self.meta = meta or first.is_meta
        self.inputs = inputs.on("meta") if self.meta else inputs.smallest().on(first.device)
        self.expected = [] if training else self._run(())[0]

    def faults(self) -> dict[str, str]:
        """Path to reason, of the sites that don't keep the network's function."""
        found = self._left_out(self.points)
        if len(found) == len(self.points) > 1:  # perhaps one of them spoils it for all
            found = {path: why for point in self.points for path, why in self._check([point]).items()}
            found |= self._left_out([point for point in self.points if point.path not in found])
        return found

    def _left_out(self, points: Sequence[InsertionPoint]) -> dict[str, str]:
        """What has to be left out until the others are right."""
        found: dict[str, str] = {}
        while wrong := self._check([point for point in points if point.path not in found]):
            found |= wrong
        return found

    def _check(self, points: Sequence[InsertionPoint]) -> dict[str, str]:
        """What is wrong when just these are inserted."""
        if not points:
            return {}
        try:
            output, runs = self._run(points)
        except Exception as error:
            if self.training and not self._runs_without():
                return {}
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return {point.path: f"with attention there the network fails: {first}" for point in points}
        # In training a module may be left out, as stochastic depth does.
        ran = [point.path for point in points if runs[point.path] or not self.training]
        wrong = {path: why for path in ran if (why := _miscounted(path, runs))}
        if not wrong and not self.training and not self._is_expected(output):
            why = "with attention there the output changes: some forward depends on which modules there are"
            wrong = dict.fromkeys((point.path for point in points), why)
        return wrong

    def _run(self, points: Sequence[InsertionPoint]) -> tuple[list[Tensor], Counter[str]]:
        """The output tensors, and how often each site's module and its attention ran."""
        network = without_insertions(replica(self.model, meta=self.meta)).train(self.training)
        modules = plain_modules(network)
        runs: Counter[str] = Counter()
        with running(network, meta=self.meta):
            for point in points:
                layer = layer_for(point, modules[point.path], network)
                attach(modules[point.path], layer, point.side)
                layer.forward = _counted(layer.forward, runs, f"{point.path}.{CHILD}")  # type: ignore[method-assign]
            for point in self.points:  # also where nothing is inserted: what is watched isn't fused
                module = modules[point.path]
                module.forward = _counted(module.forward, runs, point.path)
        with running(network, meta=self.meta):
            output = tensors_in(self.inputs.copied().call(network))
            return [tensor for tensor in output if tensor.layout == torch.strided and not tensor.is_nested], runs

    def _runs_without(self) -> bool:
        """Whether the network runs as it is (a detector doesn't train without targets, say)."""
        try:
            self._run(())
        except Exception:
            return False
        return True

    def _is_expected(self, output: Sequence[Tensor]) -> bool:
        """Whether it is the original's output, or that differs from run to run, so that it can't be compared."""
        return _same(output, self.expected) or not _same(self._run(())[0], self.expected)


def _counted(forward: Callable[..., Any], runs: Counter[str], path: str) -> Callable[..., Any]:
    @functools.wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        runs[path] += 1
        return forward(*args, **kwargs)

    return counted


def _miscounted(path: str, runs: Counter[str]) -> str:
    """Why attention doesn't run once at each run of its module; empty if it does."""
    of_module, of_attention = runs[path], runs[f"{path}.{CHILD}"]
    if of_module == 0:
        return f"{path} doesn't run on the example inputs"
    if of_attention < of_module:
        return f"{path} is run by .forward(), which goes past hooks: call the module itself"
    if of_attention > of_module:
        return f"{path} runs all of its children itself: attention would run {of_attention} times, not {of_module}"
    return ""


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are alike bit for bit; without numbers, in shape and type."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.is_meta or bool(((a == b) | ((a != a) & (b != b))).all())
