"""What is said of each attention block, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from senet.gates.statistics import DEAD, SATURATED, GateStatistics

__all__ = ["Block", "Finding", "corrected", "findings", "in_short", "names_of", "role_of"]

STILL: Final = 0.02
"""A gate whose standard deviation over the images is below this says almost the same of every image."""
FLAT: Final = 0.01
"""Factors that lie closer together than this, over images and channels, are one number."""
TOLD: Final = 6
"""Alarms of a kind that are told one by one; of more, all but the largest blocks share one."""
MOST: Final = 0.5
"""The share of factors from which a block counts as saturated, or dead."""
SPECIFIC: Final = 0.3
AGNOSTIC: Final = 0.1
"""Shares of the variance between classes from which, and up to which, a block counts as one or the other."""


@dataclass(frozen=True)
class Block:
    """One attention layer, measured over all images.

    Attributes:
        path: Of the layer in the network.
        name: The path, less its last part where that goes without saying.
        kind: Class of the layer.
        stage: Number of the stage: blocks in a row whose maps have the same size. From 1.
        channels: Factors at a position.
        size: Height and width of the map that it rescales.
        mean: Over images and channels.
        spread: Standard deviation over the images, root mean square over the channels.
        channel_spread: Standard deviation of the channels' means.
        dead: Share of factors below 0.05.
        saturated: Share of factors above 0.95.
        specificity: Variance between the classes' means over the variance over all images, summed over the channels.
        specificity_corrected: The same less what chance alone makes of so few images; None without enough of them.
        role: In a word or two.
        params: Learnable parameters.
        macs: Multiply-accumulates for one image.
        latency_share: Of the network's time, 0..1.
        drift: How far the outputs move if this gate alone becomes its mean, as in `senet.freeze`; None if it can't.
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
    """One thing to know; `level` is "alarm" or "note"."""

    level: str
    block: str
    text: str


def names_of(paths: Sequence[str]) -> dict[str, str]:
    """Path to short name: its parent's path where no other gate is in that parent."""
    parents = [path.rpartition(".")[0] for path in paths]
    return {
        path: parent if parent and parents.count(parent) == 1 else path or "(network)"
        for path, parent in zip(paths, parents, strict=True)
    }


def corrected(statistics: GateStatistics, specificity: float) -> float | None:
    """The share of the variance that lies between classes, less what chance makes.

    Means over few images differ although the classes don't; with one image a class all variance is "between".

    Source: epsilon squared, Kelley 1935.
    """
    seen = int((statistics.counts > 0).sum())
    if statistics.count <= seen or seen < 2:
        return None
    return max(0.0, 1 - (1 - specificity) * (statistics.count - 1) / (statistics.count - seen))


def role_of(statistics: GateStatistics, specificity: float | None) -> str:
    """A block's role in a word or two."""
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
    """What a reader should know first: alarms, then notes."""
    alarms = []
    for role, text in ALARMS.items():
        alike = [b for b in blocks if b.role == role]
        told = alike if len(alike) <= TOLD else sorted(alike, key=lambda b: -b.params)[: TOLD - 1]
        alarms += [Finding("alarm", b.path, text(b)) for b in alike if b in told]
        rest = [b for b in alike if b not in told]
        if rest:
            what = f"{len(rest)} more {MORE[role]}; they have {in_short(sum(b.params for b in rest))} parameters"
            alarms.append(Finding("alarm", rest[0].path, what))
    return alarms + _notes(blocks)


def _constant(b: Block) -> str:
    if min(abs(b.mean - start) for start in (0.5, 1.0)) < FLAT:
        return f"{b.name}: all gates {b.mean:.2g}: this block never learned"
    return f"{b.name}: all gates {b.mean:.2f}: it rescales everything alike; freezing it saves {_saved(b)}"


def _saved(b: Block) -> str:
    return f"{in_short(b.params)} parameters"


ALARMS: Final = {
    "constant": _constant,
    "saturated": lambda b: (
        f"{b.name}: {b.saturated:.0%} of its gates are above {SATURATED}, so it passes most channels on as they are; "
        f"without it {_saved(b)} are saved"
    ),
    "dead": lambda b: f"{b.name}: {b.dead:.0%} of its gates are below {DEAD}, so it switches most channels off",
    "still": lambda b: f"{b.name} hardly varies: freezing it saves {_saved(b)}",
}


MORE: Final = {
    "constant": "blocks have gates that are all alike",
    "saturated": f"blocks have most gates above {SATURATED}",
    "dead": f"blocks have most gates below {DEAD}",
    "still": "blocks hardly vary",
}


def _notes(blocks: Sequence[Block]) -> list[Finding]:
    # Of what hardly varies, shares of its variance say little.
    known: Mapping[str, tuple[Block, float]] = {
        b.path: (b, b.specificity_corrected)
        for b in blocks
        if b.specificity_corrected is not None and b.spread >= STILL
    }
    if len(known) < 2:
        return []
    most, most_share = max(known.values(), key=lambda item: item[1])
    least, least_share = min(known.values(), key=lambda item: item[1])
    return [
        Finding(
            "note",
            most.path,
            f"most class-specific: {most.name}, where {most_share:.0%} of the gates' variance lies between classes",
        ),
        Finding("note", least.path, f"least class-specific: {least.name}, with {least_share:.0%}"),
    ]


def in_short(count: int) -> str:
    """1234567 -> "1.23M"."""
    for block, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= block:
            return f"{count / block:.3g}{letter}"
    return str(count)
