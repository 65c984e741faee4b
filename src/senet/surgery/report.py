"""The result of `retrofit` or `plan`: the insertion points and the skipped blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from senet.errors import SenetError

__all__ = ["InsertionPoint", "Report", "Skipped"]


@dataclass(frozen=True)
class InsertionPoint:
    """A point of a network where attention is inserted.

    Attributes:
        path: The module whose output or input is rescaled.
        side: "output" or "input".
        block: Path of its block. Empty for the network itself.
        kind: Kind of the block: "residual block", "concatenation", "dense layer", "separable block", ...
        stage: Number of the stage. Blocks at the largest resolution are stage 2 (as in the paper's Table 13), blocks at
            the next smaller one stage 3, and so on.
        channels: Channels of the feature map.
        space: Its spatial size on the example inputs.
        placement: A key of `senet.nn.PLACEMENTS`.
        attention: The spec of the layer as a dictionary, see `senet.nn.attention_from_dict`.
        params: Parameters of the layer.
        macs: Its multiply-accumulates for one image of the example's size.

    Example:
        >>> import senet
        >>> point = senet.plan(senet.create_model("cifar_resnet20", depth=1)).inserted[0]
        >>> point.path, point.kind, point.channels, point.space
        ('stages.2.0.branch.bn2', 'residual block', 16, (32, 32))
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
        """Return a JSON-serializable dictionary. `from_dict` is the inverse."""
        return asdict(self) | {"space": list(self.space)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InsertionPoint:
        """Create an insertion point from the dictionary of `to_dict`.

        Raises:
            SenetError: It doesn't describe an insertion point.
        """
        try:
            point = cls(**{**values, "space": tuple(values["space"])})
        except (TypeError, KeyError) as error:
            raise SenetError(f"{values!r} is not an insertion point: {error}") from error
        for f in fields(cls):
            value = getattr(point, f.name)
            if type(value).__name__ != str(f.type).partition("[")[0]:
                raise SenetError(f"an insertion point has {f.name}={value!r}; it must be {f.type}")
        if point.side not in ("input", "output"):
            raise SenetError(f"an insertion point has side={point.side!r}; it must be 'input' or 'output'")
        return point


@dataclass(frozen=True)
class Skipped:
    """A block without inserted attention.

    Attributes:
        path: Path of the block.
        kind: As in `InsertionPoint`.
        reason: Why it was skipped.

    Example:
        >>> import senet
        >>> report = senet.plan(senet.create_model("cifar_resnet20", depth=1), stages=[3, 4])
        >>> report.skipped[0]
        Skipped(path='stages.2.0', kind='residual block', reason='is in none of the stages 3, 4')
    """

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Report:
    """The insertion points and skipped blocks of one network.

    Attributes:
        model: Class name of the network.
        inserted: The insertion points, in the order of computation. In a plan, nothing was inserted yet.
        skipped: The blocks without attention, and the reasons.

    Example:
        >>> import senet
        >>> print(senet.plan(senet.create_model("cifar_resnet20", depth=1)))
        insertion point        block                      stage  channels  feature map  params  MACs
        stages.2.0.branch.bn2  residual block stages.2.0      2        16        32x32      49    32
        stages.3.0.branch.bn2  residual block stages.3.0      3        32        16x16     162   128
        stages.4.0.branch.bn2  residual block stages.4.0      4        64          8x8     580   512
        ConvNet: se at 3 insertion points, 791 parameters, 672 MACs; 0 blocks skipped
    """

    model: str
    inserted: tuple[InsertionPoint, ...]
    skipped: tuple[Skipped, ...]

    @property
    def params(self) -> int:
        """Number of added parameters."""
        return sum(point.params for point in self.inserted)

    @property
    def macs(self) -> int:
        """Number of added multiply-accumulates, for one image of the example's size."""
        return sum(point.macs for point in self.inserted)

    def within(self, path: str) -> Report:
        """Return the report with the paths of a larger network that contains this one at `path`."""
        if not path:
            return self

        def longer(own: str) -> str:
            return f"{path}.{own}" if own else path

        points = (replace(point, path=longer(point.path), block=longer(point.block)) for point in self.inserted)
        skipped = (replace(item, path=longer(item.path)) for item in self.skipped)
        return Report(self.model, tuple(points), tuple(skipped))

    def without(self, reasons: Mapping[str, str]) -> Report:
        """Return the report with some insertion points skipped, given as path and reason."""
        kept = tuple(point for point in self.inserted if point.path not in reasons)
        skipped = (Skipped(s.block, s.kind, reasons[s.path]) for s in self.inserted if s.path in reasons)
        return Report(self.model, kept, (*self.skipped, *skipped))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dictionary."""
        return asdict(self) | {"params": self.params, "macs": self.macs}

    def to_json(self) -> str:
        """Return the report as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        lines = []
        if self.inserted:
            head = ("insertion point", "block", "stage", "channels", "feature map", "params", "MACs")
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
            f"{self.model}: {attention} at {len(self.inserted)} insertion points, {self.params:,} parameters, "
            f"{self.macs:,} MACs; {len(self.skipped)} blocks skipped"
        )
        reasons: dict[str, list[str]] = {}
        for item in self.skipped:
            reasons.setdefault(item.reason, []).append(item.path or "(the network itself)")
        for reason, paths in reasons.items():
            shown = ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
            lines.append(f"  skipped: {shown}: {reason}")
        return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Format rows with columns of equal width. The first `left` are left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            v.ljust(w) if i < left else v.rjust(w) for i, (v, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
