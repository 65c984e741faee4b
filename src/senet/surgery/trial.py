"""Try insertions on copies of a network. Each layer must run once, and the output must stay the same."""

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
    """Insert attention into copies of a network, run them, and return the insertion points that fail.

    In evaluation mode the copies have the network's weights, and the outputs are compared. Training mode runs on the
    meta device and only counts the runs of the layers. So does a network without weights, or one that can't compute on
    these inputs.

    Args:
        model: The network. Its existing insertions are left out.
        inputs: The inputs of the runs.
        points: The insertion points, one per module.

    Returns:
        The path of each insertion point that fails, with the reason.
    """
    found: dict[str, str] = {}
    for training, meta_runs in ((False, (False, True)), (True, (True,))):
        kept = [point for point in points if point.path not in found]
        trials = (_trial(model, inputs, kept, meta=meta, training=training) for meta in meta_runs)
        trial = next((trial for trial in trials if kept and trial is not None), None)
        found |= trial.faults() if trial is not None else {}
    return found


def _trial(
    model: nn.Module, inputs: Inputs, points: Sequence[InsertionPoint], *, meta: bool, training: bool
) -> _Trial | None:
    """Return a trial, or None if the unchanged network can't run in this mode."""
    try:
        return _Trial(model, inputs, points, meta=meta, training=training)
    except Exception:  # a user's network may raise anything
        return None


class _Trial:
    """Runs of copies of a network, each with some of the insertion points.

    Args:
        model: The network.
        inputs: The inputs of the runs.
        points: All candidate insertion points.
        meta: Whether to run on the meta device.
        training: Whether to run in training mode.
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
        """Return the insertion points that change the network's function: path and reason."""
        found = self._excluded(self.points)
        if len(found) == len(self.points) > 1:  # one of them may affect all others
            found = {path: why for point in self.points for path, why in self._check([point]).items()}
            found |= self._excluded([point for point in self.points if point.path not in found])
        return found

    def _excluded(self, points: Sequence[InsertionPoint]) -> dict[str, str]:
        """Exclude failing insertion points until the others pass."""
        found: dict[str, str] = {}
        while wrong := self._check([point for point in points if point.path not in found]):
            found |= wrong
        return found

    def _check(self, points: Sequence[InsertionPoint]) -> dict[str, str]:
        """Return the failures of inserting exactly these."""
        if not points:
            return {}
        try:
            output, runs = self._run(points)
        except Exception as error:
            if self.training and not self._runs_without():
                return {}
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return {point.path: f"with attention there, the network fails: {first}" for point in points}
        # Training may skip a module, such as in stochastic depth.
        ran = [point.path for point in points if runs[point.path] or not self.training]
        wrong = {path: why for path in ran if (why := _miscounted(path, runs))}
        if not wrong and not self.training and not self._is_expected(output):
            why = "with attention there, the output changes: a forward method depends on the list of modules"
            wrong = dict.fromkeys((point.path for point in points), why)
        return wrong

    def _run(self, points: Sequence[InsertionPoint]) -> tuple[list[Tensor], Counter[str]]:
        """Return the output tensors, and how often each insertion point's module and attention ran."""
        network = without_insertions(replica(self.model, meta=self.meta)).train(self.training)
        modules = plain_modules(network)
        runs: Counter[str] = Counter()
        with running(network, meta=self.meta):
            for point in points:
                layer = layer_for(point, modules[point.path], network)
                attach(modules[point.path], layer, point.side)
                layer.forward = _counted(layer.forward, runs, f"{point.path}.{CHILD}")  # type: ignore[method-assign]
            for point in self.points:  # also without an insertion: modules with hooks aren't fused
                module = modules[point.path]
                module.forward = _counted(module.forward, runs, point.path)
        with running(network, meta=self.meta):
            output = tensors_in(self.inputs.copied().call(network))
            return [tensor for tensor in output if tensor.layout == torch.strided and not tensor.is_nested], runs

    def _runs_without(self) -> bool:
        """Whether the unchanged network runs (a detector doesn't train without targets, for example)."""
        try:
            self._run(())
        except Exception:
            return False
        return True

    def _is_expected(self, output: Sequence[Tensor]) -> bool:
        """Whether it equals the original output, or the original differs between runs and can't be compared."""
        return _same(output, self.expected) or not _same(self._run(())[0], self.expected)


def _counted(forward: Callable[..., Any], runs: Counter[str], path: str) -> Callable[..., Any]:
    @functools.wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        runs[path] += 1
        return forward(*args, **kwargs)

    return counted


def _miscounted(path: str, runs: Counter[str]) -> str:
    """Return why attention doesn't run exactly once per run of its module. Empty if it does."""
    of_module, of_attention = runs[path], runs[f"{path}.{CHILD}"]
    if of_module == 0:
        return f"{path} doesn't run on the example inputs"
    if of_attention < of_module:
        return f"{path} is called by .forward(), which skips hooks: call the module itself"
    if of_attention > of_module:
        return f"{path} runs all its children itself, so attention would run {of_attention} times, not {of_module}"
    return ""


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal bit for bit. On the meta device only shape and type are compared."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return a.is_meta or bool(((a == b) | ((a != a) & (b != b))).all())
