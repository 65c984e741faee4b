"""How much the outputs of an exported file differ from the network's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["BoxLimits", "Parity", "compare_boxes", "compare_logits"]

Detections = Mapping[str, Tensor]
"""`boxes` (n, 4), `scores` (n,), `labels` (n,)."""


@dataclass(frozen=True)
class Parity:
    """The result of a comparison.

    Attributes:
        drift: Largest difference of a logit, relative to the largest logit, or of a score.
        about: The differences in words.
        problem: Reason to refuse the file; empty: none.
        figures: Further differences by name.
    """

    drift: float
    about: str
    problem: str = ""
    figures: dict[str, float] = field(default_factory=dict)


def compare_logits(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> Parity:
    """Compare the logits of each batch.

    Args:
        expected: The network's logits, (N, classes) or (N, classes, H, W).
        found: The file's logits.
        tolerance: Largest difference of a logit, relative to the largest logit.
    """
    largest = max(float(logits.abs().max()) for logits in expected)
    # NaN wins over every number, other than in Python's max.
    worst = float(torch.stack([(f - e).abs().max() for f, e in zip(found, expected, strict=True)]).max())
    drift = worst / max(largest, 1e-30)
    figures = {}
    about = f"{drift:.1e} of the largest logit"
    if expected[0].ndim == 4:
        changed = sum(int((f.argmax(1) != e.argmax(1)).sum()) for f, e in zip(found, expected, strict=True))
        pixels = sum(logits[:, 0].numel() for logits in expected)
        figures["changed_pixels"] = changed / pixels
        about += f", another class in {changed} of {pixels:,} pixels"
    bad = not drift <= tolerance  # refuses NaN too
    problem = f"a logit differs by {drift:.1e} of the largest one (limit {tolerance:g})" if bad else ""
    return Parity(drift, about, problem, figures)


@dataclass(frozen=True)
class BoxLimits:
    """Largest differences between detections.

    Attributes:
        score: Of a score.
        edge: Of a coordinate, as a fraction of the image's longest edge.
        unmatched: Fraction of the detections without counterpart.
    """

    score: float
    edge: float
    unmatched: float


def compare_boxes(
    expected: Sequence[Detections],
    found: Sequence[Detections],
    sizes: Sequence[tuple[int, int]],
    limits: BoxLimits,
    *,
    least: float,
) -> Parity:
    """Match the detections of each image one to one, and compare the pairs.

    A detection whose score is at the threshold, or at that of the last one kept, may lack a counterpart.

    Args:
        expected: The network's detections in each image, the likeliest first.
        found: The file's detections.
        sizes: Height and width of each image.
        limits: Largest differences.
        least: Smallest score of a detection.
    """
    score = box = relative = 0.0
    total = unmatched = 0
    for mine, theirs, size in zip(found, expected, sizes, strict=True):
        pairs, alone = matched(theirs, mine, 4 * limits.edge * max(size) + 1e-3)
        total += len(theirs["scores"])
        unmatched += len([one for one in alone if one > _borderline(theirs, mine, least) + limits.score])
        for first, second in pairs:
            score = max(score, _finite((theirs["scores"][first] - mine["scores"][second]).abs()))
            away = float((theirs["boxes"][first] - mine["boxes"][second]).abs().max())
            box, relative = max(box, away), max(relative, away / max(size))
    problem = ""
    if unmatched > limits.unmatched * total:
        problem = f"{unmatched} of {total} boxes have no counterpart"
    elif not score <= limits.score:
        problem = f"a score differs by {score:.1e} (limit {limits.score:g})"
    elif not relative <= limits.edge:
        problem = f"a box differs by {box:.1e} pixels, {relative:.1e} of its image's longest edge ({limits.edge:g})"
    about = f"{score:.1e} of a score and {box:.1e} pixels of a box, among {total} boxes"
    if unmatched:
        about += f", {unmatched} of them without counterpart"
    return Parity(score, about, problem, {"box_pixels": box, "boxes": total, "unmatched_boxes": unmatched})


def _finite(difference: Tensor) -> float:
    """Return a number that Python's `max` keeps, also for NaN."""
    return float(difference.nan_to_num(nan=float("inf")))


def _borderline(a: Detections, b: Detections, least: float) -> float:
    """Return the score below which a small difference decides whether a detection is kept."""
    full = len(a["scores"]) > 0 and len(a["scores"]) == len(b["scores"])
    return max(least, float(min(a["scores"].min(), b["scores"].min()))) if full else least


def matched(a: Detections, b: Detections, reach: float) -> tuple[list[tuple[int, int]], list[float]]:
    """Pair the detections of equal class one to one, the nearest boxes and scores first.

    Boxes that are cut at the image's border may coincide, so boxes alone don't tell detections apart.

    Args:
        a: Detections.
        b: Other detections of the same image.
        reach: Largest difference of a coordinate of a pair, in pixels.

    Returns:
        Pairs of positions, and the scores of the detections of both without counterpart.
    """
    distance = torch.cdist(a["boxes"].double(), b["boxes"].double(), p=float("inf"))
    distance[a["labels"][:, None] != b["labels"]] = float("inf")
    apart = distance / reach + (a["scores"].double()[:, None] - b["scores"].double()).abs()
    apart[~(distance <= reach)] = float("inf")
    pairs: list[tuple[int, int]] = []
    free_a, free_b = set(range(len(distance))), set(range(distance.shape[1]))
    for flat in apart.flatten().argsort().tolist():
        first, second = divmod(flat, distance.shape[1])
        if not distance[first, second] <= reach:
            break
        if first in free_a and second in free_b:
            pairs.append((first, second))
            free_a.remove(first)
            free_b.remove(second)
    alone = [float(a["scores"][n]) for n in free_a] + [float(b["scores"][n]) for n in free_b]
    return pairs, alone
