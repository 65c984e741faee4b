"""Replace gates by constants: attention that doesn't vary costs nothing any more."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import SenetError, UnknownNameError
from senet.gates.measuring import agreement_between, drift_between, gates, images_of, measure, run
from senet.graph.trace import trace
from senet.nn import ConstantGate
from senet.nn.modes import evaluation_mode
from senet.profiling.layer import layer_cost
from senet.surgery.fold import fold, targets
from senet.surgery.insertion import CHILD, extract, side_of
from senet.surgery.report import aligned

__all__ = ["FreezeReport", "GateReport", "freeze", "prune"]


@dataclass(frozen=True)
class GateReport:
    """One gate, measured.

    Attributes:
        path: Of the attention layer, as it was.
        channels: That it rescales.
        mean: Average factor over images and channels.
        spread: Standard deviation over the images (and positions, if the gate has some), root mean square over the
            channels: 0 is a gate that always says the same.
        drift: How far the outputs move if this gate alone becomes its mean: root mean square of the change over that
            of the outputs.
        params: Parameters of the layer.
        macs: Its multiply-accumulates for one image of the batches' size.
        frozen: Whether it was replaced.
        folded_into: The layers that took the factors; none where the constant stays as a layer of its own.
    """

    path: str
    channels: int
    mean: float
    spread: float
    drift: float
    params: int
    macs: int
    frozen: bool
    folded_into: tuple[str, ...]


@dataclass(frozen=True)
class FreezeReport:
    """What freezing did.

    Attributes:
        gates: In the order of the network's modules.
        drift: How far the outputs moved in all, as in `GateReport`.
        agreement: Share of the images whose largest output is the same as before.
        images: Number of images measured on.
        latency_ms: Of the first batch: before and after, medians of interleaved runs.
        met: Whether the budget was met; None without one.
    """

    gates: tuple[GateReport, ...]
    drift: float
    agreement: float
    images: int
    latency_ms: tuple[float, float]
    met: bool | None = None

    @property
    def params_saved(self) -> int:
        """Parameters of the frozen gates."""
        return sum(gate.params for gate in self.gates if gate.frozen)

    @property
    def macs_saved(self) -> int:
        """Multiply-accumulates of the frozen gates, for one image of the batches' size."""
        return sum(gate.macs for gate in self.gates if gate.frozen)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"params_saved": self.params_saved, "macs_saved": self.macs_saved}

    def to_json(self) -> str:
        """The same as a JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        head = ("gate", "now", "channels", "mean", "spread", "drift alone", "params", "MACs")
        rows = [
            (g.path, _state(g), str(g.channels), f"{g.mean:.3f}", f"{g.spread:.4f}", f"{g.drift:.3%}", f"{g.params:,}",
             f"{g.macs:,}")
            for g in self.gates
        ]  # fmt: skip
        frozen = sum(gate.frozen for gate in self.gates)
        before, after = self.latency_ms
        lines = aligned([head, *rows], left=2)
        lines.append(
            f"{frozen} of {len(self.gates)} gates frozen: {self.params_saved:,} parameters, {self.macs_saved:,} MACs "
            f"less; {before:.1f} -> {after:.1f} ms a batch; outputs moved by {self.drift:.2%}, {self.agreement:.2%} of "
            f"{self.images} images keep their class"
        )
        if self.met is False:
            lines.append("the budget is not met")
        return "\n".join(lines)


def _state(gate: GateReport) -> str:
    if not gate.frozen:
        return "kept"
    return f"in {', '.join(gate.folded_into)}" if gate.folded_into else "constant"


def freeze(model: nn.Module, batches: Iterable[Any]) -> FreezeReport:
    """Replace every gate by its mean over data, and fold that constant into the layer before it, in place.

    What can't be folded exactly (the map is needed elsewhere too, or comes from no norm or convolution) stays as a
    `ConstantGate`. The network becomes a plain one, for whatever runs no attention. Its checkpoint's keys are then
    those of the plain network.

    Args:
        model: Any network with attention layers of this package: its own, or a retrofitted one.
        batches: Images (N, C, space), or (images, ...), as in training and without augmentation. A few hundred images
            will do; each gate costs one run over all of them, in which its own drift is measured.

    Raises:
        SenetError: No attention, no batches, or one that doesn't run.

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
        if name == "drift" and freezing.drift_with([*chosen, path]) > limit:
            break
        chosen.append(path)
    return chosen


class _Freezing:
    """One freezing: what was measured, and what can be folded where. Nothing changes before `finish`."""

    def __init__(self, model: nn.Module, batches: Iterable[Any]) -> None:
        self.model = model
        self.gates = gates(model)
        if not self.gates:
            raise SenetError(f"{type(model).__name__} has no attention to freeze")
        self.batches = images_of(model, batches)
        self.statistics, self.outputs = measure(model, self.batches)
        graph = trace(model, [self.batches[0][:2]])
        self.calls = {call.path: call for call in graph.calls if call.path in self.gates}
        times = graph.times_called()
        self.targets = {path: targets(self.calls[path], times) for path in self.gates}

    def factors(self, path: str) -> Tensor:
        return self.statistics[path].mean

    def params_left(self, frozen: Sequence[str]) -> int:
        return sum(_params(layer) for path, layer in self.gates.items() if path not in frozen)

    def drift_with(self, frozen: Sequence[str]) -> float:
        """Drift if these gates were constants."""
        with _Swapped(self, frozen):
            return drift_between(self.outputs, run(self.model, self.batches))

    def latency_with(self, frozen: Sequence[str]) -> float:
        """Milliseconds for the first batch if these gates were gone."""
        shaped = self._without(frozen)
        return statistics.median(_timed(shaped, self.batches[0]) for _ in range(7))

    def _without(self, frozen: Sequence[str]) -> nn.Module:
        """A copy that has the frozen network's layers, though not its numbers: for timing."""
        shaped = copy.deepcopy(self.model)
        for path in frozen:
            _replace(shaped, path, None if self.targets[path] is not None else self._constant(path))
        return shaped

    def finish(self, frozen: Sequence[str] | None, budget: tuple[str, float] | None = None) -> FreezeReport:
        """Freeze these gates, or all, for good."""
        frozen = list(self.gates) if frozen is None else frozen
        rows = [self._row(path, path in frozen) for path in self.gates]
        latency = self._latencies(frozen)
        for path in frozen:
            found = self.targets[path]
            if found is not None:
                fold(found, self.factors(path))
            _replace(self.model, path, None if found is not None else self._constant(path))
        outputs = run(self.model, self.batches)
        drift = drift_between(self.outputs, outputs)
        return FreezeReport(
            gates=tuple(rows),
            drift=drift,
            agreement=agreement_between(self.outputs, outputs),
            images=sum(len(batch) for batch in self.batches),
            latency_ms=latency,
            met=None if budget is None else self._met(frozen, budget, drift, latency[1]),
        )

    def _met(self, frozen: Sequence[str], budget: tuple[str, float], drift: float, latency_ms: float) -> bool:
        name, limit = budget
        return {"params": self.params_left(frozen), "latency_ms": latency_ms, "drift": drift}[name] <= limit

    def _row(self, path: str, frozen: bool) -> GateReport:
        layer, found = self.gates[path], self.targets[path]
        return GateReport(
            path=path,
            channels=layer.channels,
            mean=float(self.factors(path).mean()),
            spread=self.statistics[path].spread,
            drift=self.drift_with([path]),
            params=_params(layer),
            macs=layer_cost(layer, self.calls[path].inputs[0].shape)[1],
            frozen=frozen,
            folded_into=tuple(t.path for t in found) if frozen and found else (),
        )

    def _constant(self, path: str) -> ConstantGate:
        layer, like = self.gates[path], self.batches[0]
        return ConstantGate(self.factors(path).to(like.device, like.dtype), ndim=layer.ndim).train(layer.training)

    def _latencies(self, frozen: Sequence[str]) -> tuple[float, float]:
        """Before and after, in turns, so that what else the machine does meets both."""
        shaped = self._without(frozen)
        rounds = [(_timed(self.model, self.batches[0]), _timed(shaped, self.batches[0])) for _ in range(7)]
        before, after = zip(*rounds[1:], strict=True)  # the first warms up
        return statistics.median(before), statistics.median(after)


class _Swapped:
    """Within the block some gates are constants."""

    def __init__(self, freezing: _Freezing, paths: Sequence[str]) -> None:
        self.freezing, self.paths = freezing, paths

    def __enter__(self) -> None:
        for path in self.paths:
            self.freezing.gates[path].forward = self.freezing._constant(path).forward  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        for path in self.paths:
            del self.freezing.gates[path].forward


def _replace(model: nn.Module, path: str, constant: ConstantGate | None) -> None:
    """Put a constant, or nothing, in the place of an attention layer."""
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if constant is not None:
        setattr(parent, name, constant)
    elif name == CHILD and side_of(parent) is not None:
        extract(parent)
    else:
        setattr(parent, name, nn.Identity())


def _params(layer: nn.Module) -> int:
    return sum(p.numel() for p in layer.parameters())


def _timed(model: nn.Module, batch: Tensor) -> float:
    with torch.no_grad(), evaluation_mode(model):
        started = time.perf_counter()
        model(batch)
        return 1000 * (time.perf_counter() - started)
