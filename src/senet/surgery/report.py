"""What surgery did, or would do, place by place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from senet.errors import SenetError

__all__ = ["InsertionPoint", "Report", "Skipped"]


@dataclass(frozen=True)
class InsertionPoint:
    """A place for attention.

    Attributes:
        path: The module at whose output, or input, the map is rescaled.
        side: "output" or "input".
        block: Path of the block that it belongs to; empty if the network itself computes it.
        kind: Of that block: "residual block", "concatenation", "dense layer", "separable block", ...
        stage: Number of the stage: blocks at the largest resolution are stage 2 (as in the paper's Table 13), those at
            the next smaller one stage 3, and so on.
        channels: Of the map.
        space: Its size, as seen with the example inputs.
        placement: As in `senet.nn.PLACEMENTS`.
        attention: The layer's description, as `senet.nn.attention_from_dict` reads it.
        params: Parameters that the layer has.
        macs: Its multiply-accumulates for one image of the example's size.
    """

    path: str
    side: str
    block: str
    kind: str
    stage: int
    channels: int
    space: tuple[int, ...]
    placement: str
    attention: dict[str, Any]
    params: int
    macs: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; `from_dict` reads it back."""
        return asdict(self) | {"space": list(self.space)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InsertionPoint:
        """Read what `to_dict` wrote.

        Raises:
            SenetError: It is no site.
        """
        try:
            point = cls(**{**values, "space": tuple(values["space"])})
        except (TypeError, KeyError) as error:
            raise SenetError(f"{values!r} describes no place for attention: {error}") from error
        for f in fields(cls):
            value = getattr(point, f.name)
            if type(value).__name__ != str(f.type).partition("[")[0]:
                raise SenetError(f"a place for attention has {f.name}={value!r}; it must be {f.type}")
        if point.side not in ("input", "output"):
            raise SenetError(f"a place for attention has side={point.side!r}; it must be 'input' or 'output'")
        return point


@dataclass(frozen=True)
class Skipped:
    """A block that gets none.

    Attributes:
        path: Of the block.
        kind: As in `InsertionPoint`.
        reason: Why.
    """

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Report:
    """Sites and skipped blocks of one network.

    Attributes:
        model: Class of the network.
        inserted: Where attention is (or, in a plan, would be) inserted, in the order of computation.
        skipped: The blocks without, and why.
    """

    model: str
    inserted: tuple[InsertionPoint, ...]
    skipped: tuple[Skipped, ...]

    @property
    def params(self) -> int:
        """Parameters added."""
        return sum(point.params for point in self.inserted)

    @property
    def macs(self) -> int:
        """Multiply-accumulates added, for one image of the example's size."""
        return sum(point.macs for point in self.inserted)

    def within(self, path: str) -> Report:
        """The same, as a network calls it in which this one is the module at `path`."""
        if not path:
            return self

        def longer(own: str) -> str:
            return f"{path}.{own}" if own else path

        points = (replace(point, path=longer(point.path), block=longer(point.block)) for point in self.inserted)
        skipped = (replace(item, path=longer(item.path)) for item in self.skipped)
        return Report(self.model, tuple(points), tuple(skipped))

    def without(self, reasons: Mapping[str, str]) -> Report:
        """The same, with some sites skipped instead: path of the site to reason."""
        kept = tuple(point for point in self.inserted if point.path not in reasons)
        skipped = (Skipped(s.block, s.kind, reasons[s.path]) for s in self.inserted if s.path in reasons)
        return Report(self.model, kept, (*self.skipped, *skipped))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"params": self.params, "macs": self.macs}

    def to_json(self) -> str:
        """The same as a JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        lines = []
        if self.inserted:
            head = ("site", "block", "stage", "channels", "map", "params", "MACs")
            rows = [
                (
                    s.path if s.side == "output" else f"{s.path} (input)",
                    f"{s.kind} {s.block}".rstrip(),
                    str(s.stage),
                    str(s.channels),
                    "x".join(map(str, s.space)),
                    f"{s.params:,}",
                    f"{s.macs:,}",
                )
                for s in self.inserted
            ]
            lines += aligned([head, *rows], left=2)
        attention = self.inserted[0].attention["kind"] if self.inserted else "attention"
        lines.append(
            f"{self.model}: {attention} at {len(self.inserted)} sites, {self.params:,} parameters, {self.macs:,} MACs; "
            f"{len(self.skipped)} blocks skipped"
        )
        reasons: dict[str, list[str]] = {}
        for item in self.skipped:
            reasons.setdefault(item.reason, []).append(item.path or "(the network itself)")
        for reason, paths in reasons.items():
            shown = ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
            lines.append(f"  skipped: {shown}: {reason}")
        return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows as lines with columns of equal width, the first `left` to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            v.ljust(w) if i < left else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
