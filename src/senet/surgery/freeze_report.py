"""The result of freezing, per gate and in total."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from senet.surgery.report import aligned

__all__ = ["FreezeReport", "GateReport"]


@dataclass(frozen=True)
class GateReport:
    """The measurements of one gate, and whether it was frozen.

    Attributes:
        path: Path of the attention layer before freezing.
        channels: Channels that it rescales.
        mean: Mean factor over images and channels.
        spread: Standard deviation over the images (and positions, if the gate has some), root mean square over the
            channels. 0 is a constant gate.
        drift: Change of the outputs if only this gate becomes its mean. It is the change's root mean square over the
        outputs' root mean square.
        params: Parameters of the layer.
        macs: Its multiply-accumulates for one image of the batches' size.
        frozen: Whether it was frozen.
        folded_into: The layers that took the factors. Empty if the constant stays as a layer.
        reason: Why the constant stays as a layer.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_cifar_resnet20", depth=1).eval()
        >>> gate = senet.freeze(model, [torch.rand(8, 3, 32, 32)]).gates[0]
        >>> gate.path, gate.channels, gate.folded_into
        ('stages.2.0.se', 16, ('stages.2.0.branch.bn2',))
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
    """The result of `freeze` or `prune`.

    Attributes:
        gates: One report per gate, in module order.
        drift: Change of the outputs in total, as in `GateReport`.
        agreement: Fraction of the images whose largest output stays the same.
        images: Number of images measured.
        latency_ms: Milliseconds of the first batch before and after, medians of interleaved runs.
        budget_met: Whether the budget was met. None without a budget.

    Example:
        >>> import torch, senet
        >>> model = senet.create_model("se_cifar_resnet20", depth=1).eval()
        >>> report = senet.freeze(model, [torch.rand(8, 3, 32, 32)])
        >>> print(report)
        gate           status                   channels ...
        stages.2.0.se  in stages.2.0.branch.bn2       16 ...
        ...
        3 of 3 gates frozen: 791 parameters, 672 MACs less; ...
    """

    gates: tuple[GateReport, ...]
    drift: float
    agreement: float
    images: int
    latency_ms: tuple[float, float]
    budget_met: bool | None = None

    @property
    def params_saved(self) -> int:
        """Parameters of the frozen gates."""
        return sum(gate.params for gate in self.gates if gate.frozen)

    @property
    def macs_saved(self) -> int:
        """Multiply-accumulates of the frozen gates, for one image of the batches' size."""
        return sum(gate.macs for gate in self.gates if gate.frozen)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dictionary."""
        return asdict(self) | {"params_saved": self.params_saved, "macs_saved": self.macs_saved}

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        head = ("gate", "status", "channels", "mean", "spread", "drift alone", "params", "MACs")
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
            f"less; {before:.1f} -> {after:.1f} ms per batch; outputs changed by {self.drift:.2%}; "
            f"{self.agreement:.2%} of {self.images} images keep their class"
        )
        if self.budget_met is False:
            lines.append("the budget is not met")
        return "\n".join(lines)


def _state(gate: GateReport) -> str:
    if not gate.frozen:
        return "kept"
    return f"in {', '.join(gate.folded_into)}" if gate.folded_into else f"constant: {gate.reason}"
