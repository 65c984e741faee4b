"""Replace gates by constants: attention that doesn't vary costs nothing any more."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import SenetError, UnknownNameError
from senet.gates.measuring import agreement_between, drift_between, gates, images_of, measure, measuring, run
from senet.graph.trace import trace
from senet.nn import ConstantGate
from senet.nn.modes import uncompiled
from senet.nn.optimized import refuse_optimized
from senet.profiling.layer import layer_cost
from senet.surgery.fold import Plan, Planner, fold
from senet.surgery.freeze_report import FreezeReport, GateReport
from senet.surgery.parameter_use import ParameterUse
from senet.surgery.substitution import substitute

__all__ = ["FreezeReport", "GateReport", "freeze", "prune"]


def freeze(model: nn.Module, batches: Iterable[Any]) -> FreezeReport:
    """Replace every gate by its mean over data, and fold that constant into the layer before it, in place.

    A constant that can't be folded exactly stays as a `ConstantGate`, and the report says why: the map is needed
    elsewhere too, the weights are shared or computed, a factor is negative and a ReLU comes before. If the network
    with folded constants doesn't give what it gives with constant gates, folds are undone. A gate that runs several
    times in a pass becomes one constant, its mean over all runs. If all constants are folded, the network is a plain
    one, for whatever runs no attention, with the plain network's keys.

    Args:
        model: Any network with attention layers of this package: its own, or a retrofitted one.
        batches: Images (N, C, space), or (images, ...), as in training and without augmentation. A few hundred images
            will do; each gate costs one run over all of them, in which its own drift is measured.

    Raises:
        SenetError: No attention, no batches, one that doesn't run, or gates or outputs that are NaN or infinite. The
            network is then as it was, as after any other exception.

    Source: Hu et al. 2018, section 7.2: the last stage's gates saturate, and removing them costs less than 0.1 points
        for a large share of the parameters.
    """
    return _Freezing(model, batches).finish(None)


BUDGETS = ("params", "latency_ms", "drift")


def prune(model: nn.Module, batches: Iterable[Any], budget: Mapping[str, float]) -> FreezeReport:
    """Freeze the gates that vary least until a budget is met, in place; keep the others.

    Args:
        model: As in `freeze`.
        batches: As in `freeze`.
        budget: One of `{"params": most parameters that attention may have left}`,
            `{"latency_ms": most milliseconds for the first batch}` or
            `{"drift": how far the outputs may move at most}` (a share, as in `GateReport`).

    Raises:
        UnknownNameError: There is no such budget.
        SenetError: As in `freeze`, or the budget is no single positive number.
    """
    if len(budget) != 1:
        raise SenetError(f"budget={dict(budget)!r}: give one of {', '.join(BUDGETS)}, such as {{'drift': 0.01}}")
    [(name, limit)] = budget.items()
    if name not in BUDGETS:
        raise UnknownNameError("budget", name, BUDGETS)
    if not limit >= 0:
        raise SenetError(f"budget: {name}={limit} must be 0 or more")
    freezing = _Freezing(model, batches)
    return freezing.finish(_chosen(freezing, name, limit), budget=(name, limit))


def _chosen(freezing: _Freezing, name: str, limit: float) -> list[str]:
    """The gates to freeze, the calmest first, as few as the budget asks for or as many as it allows."""
    order = sorted(freezing.statistics, key=lambda path: freezing.statistics[path].spread)
    chosen: list[str] = []
    for path in order:
        if name == "params" and freezing.params_left(chosen) <= limit:
            break
        if name == "latency_ms" and freezing.latency_with(chosen) <= limit:
            break
        if name == "drift" and not freezing.drift_with([*chosen, path]) <= limit:
            break
        chosen.append(path)
    return chosen


class _Freezing:
    """One freezing: what was measured, and what can be folded where. Nothing changes before `finish`."""

    def __init__(self, model: nn.Module, batches: Iterable[Any]) -> None:
        refuse_optimized(model, "freeze")
        self.model = model
        self.gates = gates(model)
        if not self.gates:
            raise SenetError(f"{type(model).__name__} has no attention to freeze")
        if "" in self.gates:
            raise SenetError(f"{type(model).__name__} is an attention layer itself; give the network that it is in")
        self.batches = images_of(model, batches)
        self.statistics, self.outputs = measure(model, self.batches)
        self.constants = {path: self._constant(path) for path in self.gates}
        first = [self.batches[0][:2]]
        with uncompiled():
            graph, use = trace(model, first), ParameterUse(model, first)
        self.calls = {path: [c for c in graph.calls if c.module is layer] for path, layer in self.gates.items()}
        planner = Planner(graph, use)
        self.plans = {path: planner.plan(calls, self.factors(path)) for path, calls in self.calls.items()}

    def factors(self, path: str) -> Tensor:
        return self.statistics[path].mean

    def _constant(self, path: str) -> ConstantGate:
        layer = self.gates[path]
        like = next(layer.parameters(), self.batches[0])
        factors = self.factors(path).to(like.device, like.dtype)
        if not factors.isfinite().all():
            raise SenetError(
                f"{path}: the mean of its gate is NaN or infinite on these batches; it can't be a constant"
            )
        return ConstantGate(factors, ndim=layer.ndim).train(layer.training)

    def params_left(self, frozen: Sequence[str]) -> int:
        return sum(_params(layer) for path, layer in self.gates.items() if path not in frozen)

    def drift_with(self, frozen: Sequence[str]) -> float:
        """Drift if these gates were constants."""
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            try:
                return drift_between(self.outputs, run(self.model, self.batches))
            except (AttributeError, TypeError) as error:  # the network looks into its attention layers
                raise SenetError(f"the network doesn't run with a constant for {frozen[-1]}: {error}") from error

    def latency_with(self, frozen: Sequence[str]) -> float:
        """Milliseconds for the first batch if these gates were gone."""
        return statistics.median(self._timed_without(frozen) for _ in range(7))

    def finish(self, frozen: Sequence[str] | None, budget: tuple[str, float] | None = None) -> FreezeReport:
        """Freeze these gates, or all, for good."""
        frozen = list(self.gates) if frozen is None else frozen
        drifts = {path: self.drift_with([path]) for path in self.gates}
        outputs = self._checked(frozen)
        drift, latency = drift_between(self.outputs, outputs), self._latencies(frozen)
        report = FreezeReport(
            gates=tuple(self._row(path, drifts[path], path in frozen) for path in self.gates),
            drift=drift,
            agreement=agreement_between(self.outputs, outputs),
            images=sum(len(batch) for batch in self.batches),
            latency_ms=latency,
            met=None if budget is None else self._met(frozen, budget, drift, latency[1]),
        )
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            self._fold(self._foldable(frozen), undo)
            undo.pop_all()  # nothing went wrong, so nothing is taken back
        return report

    def _checked(self, frozen: Sequence[str]) -> list[Tensor]:
        """The frozen network's outputs, once no plan is left that would change those of constant gates."""
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            expected = run(self.model, self.batches)

            def changes(paths: Sequence[str]) -> bool:
                return not drift_between(expected, self._outputs_folded(paths)) <= self._rounding()

            if changes(self._foldable(frozen)):
                self._leave([path for path in self._foldable(frozen) if changes([path])])
            if changes(self._foldable(frozen)):  # each alone is right
                self._leave(self._foldable(frozen))
            return self._outputs_folded(self._foldable(frozen))

    def _outputs_folded(self, paths: Sequence[str]) -> list[Tensor]:
        with ExitStack() as undo:
            self._fold(paths, undo)
            return run(self.model, self.batches)

    def _rounding(self) -> float:
        """How far rounding alone may move the outputs: the root of the coarsest type's precision."""
        tensors = [t for t in (*self.model.parameters(), *self.batches) if t.is_floating_point()]
        precision = max(torch.finfo(t.dtype).eps for t in tensors)
        # Elsewhere than on processors, float32 is often multiplied with ten bits (TF32).
        return float(max(precision, 0 if self.batches[0].is_cpu else 2**-10) ** 0.5)

    def _foldable(self, frozen: Iterable[str]) -> list[str]:
        return [path for path in frozen if self.plans[path].targets]

    def _leave(self, paths: Iterable[str]) -> None:
        self.plans |= {path: Plan((), "folding it would change the outputs") for path in paths}

    def _put_constants(self, paths: Iterable[str], undo: ExitStack) -> None:
        for path in paths:
            substitute(self.model, self.gates[path], self.constants[path], undo)

    def _fold(self, paths: Iterable[str], undo: ExitStack) -> None:
        """Fold constants that stand in the network."""
        for path in paths:
            fold(self.plans[path].targets, self.factors(path), undo)
            substitute(self.model, self.constants[path], None, undo)

    def _met(self, frozen: Sequence[str], budget: tuple[str, float], drift: float, latency_ms: float) -> bool:
        name, limit = budget
        return {"params": self.params_left(frozen), "latency_ms": latency_ms, "drift": drift}[name] <= limit

    def _row(self, path: str, drift: float, frozen: bool) -> GateReport:
        layer, plan = self.gates[path], self.plans[path]
        return GateReport(
            path=path,
            channels=layer.channels,
            mean=float(self.factors(path).mean()),
            spread=self.statistics[path].spread,
            drift=drift,
            params=_params(layer),
            macs=sum(layer_cost(layer, call.inputs[0].shape)[1] for call in self.calls[path] if call.inputs),
            frozen=frozen,
            folded_into=tuple(target.path for target in plan.targets) if frozen else (),
            reason=plan.reason if frozen else "",
        )

    def _latencies(self, frozen: Sequence[str]) -> tuple[float, float]:
        """Before and after, in turns, so that what else the machine does meets both."""
        rounds = [(_timed(self.model, self.batches[0]), self._timed_without(frozen)) for _ in range(7)]
        before, after = zip(*rounds[1:], strict=True)  # the first warms up
        return statistics.median(before), statistics.median(after)

    def _timed_without(self, frozen: Sequence[str]) -> float:
        """Milliseconds with the frozen network's layers, though not its numbers."""
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            for path in self._foldable(frozen):
                substitute(self.model, self.constants[path], None, undo)
            return _timed(self.model, self.batches[0])


def _params(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def _timed(model: nn.Module, batch: Tensor) -> float:
    with measuring(model):
        started = time.perf_counter()
        model(batch)
        return 1000 * (time.perf_counter() - started)
