"""Replace gates by constants. A constant gate costs nothing after folding."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import SenetError, UnknownNameError
from senet.gates.measuring import agreement_between, drift_between, gates, images_of, measure, measuring, run
from senet.graph.trace import trace
from senet.nn import Attention, ConstantGate
from senet.nn.modes import uncompiled
from senet.nn.optimized import refuse_optimized
from senet.profiling.layer import layer_cost
from senet.profiling.timing import seconds_of
from senet.surgery.fold import Plan, Planner, fold
from senet.surgery.freeze_report import FreezeReport, GateReport
from senet.surgery.parameter_use import ParameterUse
from senet.surgery.substitution import substitute

__all__ = ["FreezeReport", "GateReport", "freeze", "prune"]


def freeze(model: nn.Module, batches: Iterable[Any]) -> FreezeReport:
    """Replace every gate by its mean over data, and fold this constant into a layer beside it, in place.

    The layers before the gate take it, or else the only convolution after it, such as where an activation comes before
    the gate. A constant that can't be folded exactly stays as a `ConstantGate`, and the report gives the reason: the
    feature map is also used elsewhere, or the weights are shared or computed. Folds are undone
    if they change the outputs of the network with constant gates. A gate that runs several times per forward pass
    becomes one constant, its mean over all runs. If all constants are folded, the result is a plain network with the
    plain network's keys.

    Args:
        model: Any network with attention layers of this package, including a retrofitted one, or with the SE and ECA
            layers of timm, torchvision or pytorchcv.
        batches: Images (N, C, *spatial), or (images, ...), as in training but without augmentation. A few hundred are
            enough. Each gate takes one run over all of them, which measures its own drift.

    Raises:
        SenetError: No attention, no batches, a gate that doesn't run, or non-finite gates or outputs. The network is
            then unchanged, as after any other exception.

    Source: Hu et al. 2018, section 7.2: the gates of the last stage saturate. Removing them saves a large share of the
        parameters for less than 0.1 points of error.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_cifar_resnet20", depth=1).eval()
        >>> report = senet.freeze(model, [torch.rand(8, 3, 32, 32)])
        >>> sum(gate.frozen for gate in report.gates), report.params_saved
        (3, 791)
    """
    return _Freezing(model, batches).finish(None)


BUDGETS = ("params", "latency_ms", "drift")


def prune(model: nn.Module, batches: Iterable[Any], budget: Mapping[str, float]) -> FreezeReport:
    """Freeze the gates that vary least until a budget is met, in place, and keep the others.

    Args:
        model: As in `freeze`.
        batches: As in `freeze`.
        budget: One of `{"params": N}` (parameters left in attention), `{"latency_ms": MS}` (time of the first batch) or
            `{"drift": FRACTION}` (change of the outputs, as in `GateReport`). Each value is an upper limit.

    Raises:
        UnknownNameError: There is no such budget.
        SenetError: As in `freeze`, or the budget is not a single non-negative number.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_cifar_resnet20", depth=1).eval()
        >>> report = senet.prune(model, [torch.rand(8, 3, 32, 32)], {"params": 600})
        >>> report.budget_met, sum(gate.params for gate in report.gates if not gate.frozen) <= 600
        (True, True)
    """
    if len(budget) != 1:
        raise SenetError(f"budget={dict(budget)!r} must be one of {', '.join(BUDGETS)}, such as {{'drift': 0.01}}")
    [(name, limit)] = budget.items()
    if name not in BUDGETS:
        raise UnknownNameError("budget", name, BUDGETS)
    if not limit >= 0:
        raise SenetError(f"budget: {name}={limit} must be 0 or more")
    freezing = _Freezing(model, batches)
    return freezing.finish(_chosen(freezing, name, limit), budget=(name, limit))


def _chosen(freezing: _Freezing, name: str, limit: float) -> list[str]:
    """Return the gates to freeze, in order of increasing spread, until the budget is met or exhausted."""
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
    """The measurements and fold plans of one `freeze` or `prune`. Nothing changes before `finish`."""

    def __init__(self, model: nn.Module, batches: Iterable[Any]) -> None:
        refuse_optimized(model, "freeze")
        self.model = model
        self.gates = gates(model)
        if not self.gates:
            raise SenetError(f"{type(model).__name__} has no attention to freeze")
        if "" in self.gates:
            raise SenetError(f"{type(model).__name__} is an attention layer itself; pass the network that contains it")
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
                f"{path}: the mean of its gate is non-finite on these batches, so it can't become a constant"
            )
        return ConstantGate(factors, ndim=layer.ndim if isinstance(layer, Attention) else 2).train(layer.training)

    def params_left(self, frozen: Sequence[str]) -> int:
        return sum(_params(layer) for path, layer in self.gates.items() if path not in frozen)

    def drift_with(self, frozen: Sequence[str]) -> float:
        """Measure the drift with constants for these gates."""
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            try:
                return drift_between(self.outputs, run(self.model, self.batches))
            except (AttributeError, TypeError) as error:  # the network reads attributes of its attention layers
                raise SenetError(f"the network doesn't run with a constant for {frozen[-1]}: {error}") from error

    def latency_with(self, frozen: Sequence[str]) -> float:
        """Measure the milliseconds for the first batch without these gates."""
        return statistics.median(self._timed_without(frozen) for _ in range(7))

    def finish(self, frozen: Sequence[str] | None, budget: tuple[str, float] | None = None) -> FreezeReport:
        """Freeze these gates, or all if None, permanently."""
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
            budget_met=None if budget is None else self._meets(frozen, budget, drift, latency[1]),
        )
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            self._fold(self._foldable(frozen), undo)
            undo.pop_all()  # success: keep the changes
        return report

    def _checked(self, frozen: Sequence[str]) -> list[Tensor]:
        """Drop fold plans that change the outputs, and return the outputs of the frozen network."""
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            expected = run(self.model, self.batches)

            def changes(paths: Sequence[str]) -> bool:
                return not drift_between(expected, self._outputs_folded(paths)) <= self._rounding()

            if changes(self._foldable(frozen)):
                self._keep_unfolded([path for path in self._foldable(frozen) if changes([path])])
            if changes(self._foldable(frozen)):  # each fold alone is exact, but not all together
                self._keep_unfolded(self._foldable(frozen))
            return self._outputs_folded(self._foldable(frozen))

    def _outputs_folded(self, paths: Sequence[str]) -> list[Tensor]:
        with ExitStack() as undo:
            self._fold(paths, undo)
            return run(self.model, self.batches)

    def _rounding(self) -> float:
        """Return the tolerance for rounding: the square root of the coarsest precision."""
        tensors = [t for t in (*self.model.parameters(), *self.batches) if t.is_floating_point()]
        precision = max(torch.finfo(t.dtype).eps for t in tensors)
        # On GPUs, float32 is often multiplied with ten bits (TF32).
        return float(max(precision, 0 if self.batches[0].is_cpu else 2**-10) ** 0.5)

    def _foldable(self, frozen: Iterable[str]) -> list[str]:
        return [path for path in frozen if self.plans[path].targets]

    def _keep_unfolded(self, paths: Iterable[str]) -> None:
        self.plans |= {path: Plan((), "folding it would change the outputs") for path in paths}

    def _put_constants(self, paths: Iterable[str], undo: ExitStack) -> None:
        for path in paths:
            substitute(self.model, self.gates[path], self.constants[path], undo)

    def _fold(self, paths: Iterable[str], undo: ExitStack) -> None:
        """Fold constants that are in the network."""
        for path in paths:
            fold(self.plans[path].targets, self.factors(path), undo)
            substitute(self.model, self.constants[path], None, undo)

    def _meets(self, frozen: Sequence[str], budget: tuple[str, float], drift: float, latency_ms: float) -> bool:
        name, limit = budget
        return {"params": self.params_left(frozen), "latency_ms": latency_ms, "drift": drift}[name] <= limit

    def _row(self, path: str, drift: float, frozen: bool) -> GateReport:
        layer, plan = self.gates[path], self.plans[path]
        return GateReport(
            path=path,
            channels=self.statistics[path].channels,
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
        """Measure before and after in interleaved runs, so that other load affects both."""
        rounds = [(_timed(self.model, self.batches[0]), self._timed_without(frozen)) for _ in range(7)]
        before, after = zip(*rounds[1:], strict=True)  # the first warms up
        return statistics.median(before), statistics.median(after)

    def _timed_without(self, frozen: Sequence[str]) -> float:
        """Measure the milliseconds with the frozen network's layers, without its values."""
        with ExitStack() as undo:
            self._put_constants(frozen, undo)
            for path in self._foldable(frozen):
                substitute(self.model, self.constants[path], None, undo)
            return _timed(self.model, self.batches[0])


def _params(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def _timed(model: nn.Module, batch: Tensor) -> float:
    with measuring(model):
        return 1000 * seconds_of(lambda: model(batch), device=batch.device)
