"""Numbers and roles of attention blocks, and the findings about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from senet.gates.statistics import DEAD, SATURATED, GateStatistics

__all__ = ["Block", "Finding", "corrected", "findings", "in_short", "names_of", "role_of"]

STILL: Final = 0.02
"""A gate with a smaller standard deviation over the images hardly depends on the image."""
FLAT: Final = 0.01
"""Factors closer together than this, over images and channels, count as one number."""
LISTED: Final = 6
"""Largest number of alarms of one role. Of more, the largest blocks are listed and the others share one alarm."""
MOST: Final = 0.5
"""Fraction of factors from which a block counts as saturated, or dead."""
SPECIFIC: Final = 0.3
AGNOSTIC: Final = 0.1
"""Fractions of the variance between classes: from SPECIFIC a block is class-specific, up to AGNOSTIC class-agnostic."""


@dataclass(frozen=True)
class Block:
    """One attention layer, measured over all images.

    Attributes:
        path: Path of the layer in the network.
        name: Short name: the path without its last part where this is unique.
        kind: Class of the layer.
        stage: Number of the stage, from 1. A stage is a row of blocks whose feature maps have the same size.
        channels: Factors at a position.
        size: Height and width of the feature map that it rescales.
        mean: Mean over images and channels.
        spread: Standard deviation over the images, root mean square over the channels.
        channel_spread: Standard deviation of the channels' means.
        dead: Fraction of factors below 0.05.
        saturated: Fraction of factors above 0.95.
        specificity: Variance between the classes' means over the variance over all images, summed over the channels.
        specificity_corrected: Specificity corrected for chance, None with too few images.
        role: Role in a word or two.
        params: Learnable parameters.
        macs: Multiply-accumulates (MACs) for one image.
        latency_share: Fraction of the network's time, 0..1.
        drift: Drift of the outputs if this gate alone becomes its mean, as in `senet.freeze`, or None if unavailable.
    """

    path: str
    name: str
    kind: str
    stage: int
    channels: int
    size: tuple[int, ...]
    mean: float
    spread: float
    channel_spread: float
    dead: float
    saturated: float
    specificity: float
    specificity_corrected: float | None
    role: str
    params: int
    macs: int
    latency_share: float
    drift: float | None


@dataclass(frozen=True)
class Finding:
    """One finding. `level` is "alarm" or "note"."""

    level: str
    block: str
    text: str


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """Map paths to short names: the parent's path if it contains no other gate."""
    parents = [path.rpartition(".")[0] for path in paths]
    return {
        path: parent if parent and parents.count(parent) == 1 else path or "(network)"
        for path, parent in zip(paths, parents, strict=True)
    }


def corrected(statistics: GateStatistics, specificity: float) -> float | None:
    """Correct the fraction of variance between classes for chance.

    Means over few images differ even if the classes don't. With one image in each class all variance lies between
    classes.

    Source: epsilon squared, Kelley 1935.
    """
    seen = int((statistics.counts > 0).sum())
    if statistics.count <= seen or seen < 2:
        return None
    return max(0.0, 1 - (1 - specificity) * (statistics.count - 1) / (statistics.count - seen))


def role_of(statistics: GateStatistics, specificity: float | None) -> str:
    """Return a block's role in a word or two."""
    if statistics.spread < FLAT and float(statistics.mean.std(correction=0)) < FLAT:
        return "constant"
    if statistics.saturated > MOST:
        return "saturated"
    if statistics.dead > MOST:
        return "dead"
    if statistics.spread < STILL:
        return "still"
    if specificity is None:
        return "varies"
    if specificity >= SPECIFIC:
        return "class-specific"
    return "class-agnostic" if specificity <= AGNOSTIC else "mixed"


def findings(blocks: Sequence[Block]) -> list[Finding]:
    """List the findings, alarms first, then notes."""
    alarms = []
    for role, text in ALARMS.items():
        alike = [b for b in blocks if b.role == role]
        listed = alike if len(alike) <= LISTED else sorted(alike, key=lambda b: -b.params)[: LISTED - 1]
        alarms += [Finding("alarm", b.path, text(b)) for b in alike if b in listed]
        rest = [b for b in alike if b not in listed]
        if rest:
            summary = f"{len(rest)} more {MORE[role]}; they have {in_short(sum(b.params for b in rest))} parameters"
            alarms.append(Finding("alarm", rest[0].path, summary))
    return alarms + _notes(blocks)


def _constant(b: Block) -> str:
    if min(abs(b.mean - start) for start in (0.5, 1.0)) < FLAT:
        return f"{b.name}: all gates {b.mean:.2g}, so this block never learned"
    return f"{b.name}: all gates {b.mean:.2f}, so it rescales all channels alike; freezing it saves {_saved(b)}"


def _saved(b: Block) -> str:
    return f"{in_short(b.params)} parameters"


ALARMS: Final = {
    "constant": _constant,
    "saturated": lambda b: (
        f"{b.name}: {b.saturated:.0%} of its gates are above {SATURATED}, so it leaves most channels unchanged; "
        f"removing it saves {_saved(b)}"
    ),
    "dead": lambda b: f"{b.name}: {b.dead:.0%} of its gates are below {DEAD}, so it switches most channels off",
    "still": lambda b: f"{b.name} hardly varies: freezing it saves {_saved(b)}",
}


MORE: Final = {
    "constant": "blocks have equal gates",
    "saturated": f"blocks have most gates above {SATURATED}",
    "dead": f"blocks have most gates below {DEAD}",
    "still": "blocks hardly vary",
}


def _notes(blocks: Sequence[Block]) -> list[Finding]:
    # A fraction of a tiny variance has no meaning.
    known: Mapping[str, tuple[Block, float]] = {
        b.path: (b, b.specificity_corrected)
        for b in blocks
        if b.specificity_corrected is not None and b.spread >= STILL
    }
    if len(known) < 2:
        return []
    most, most_fraction = max(known.values(), key=lambda item: item[1])
    least, least_fraction = min(known.values(), key=lambda item: item[1])
    return [
        Finding(
            "note",
            most.path,
            f"most class-specific: {most.name}, where {most_fraction:.0%} of the gates' variance lies between classes",
        ),
        Finding("note", least.path, f"least class-specific: {least.name}, with {least_fraction:.0%}"),
    ]


def in_short(count: int) -> str:
    """Abbreviate a count: 1234567 -> "1.23M"."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)
