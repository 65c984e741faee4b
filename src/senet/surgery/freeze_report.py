"""What freezing did: gate by gate, and in all."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from senet.surgery.report import aligned

__all__ = ["FreezeReport", "GateReport"]


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
        reason: Why it stays.
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
    reason: str = ""


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
    return f"in {', '.join(gate.folded_into)}" if gate.folded_into else f"constant: {gate.reason}"
