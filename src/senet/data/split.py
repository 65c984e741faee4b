"""Dividing images into training and validation splits."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

__all__ = ["SplitSpec", "hash_fraction", "hash_split", "portable", "stratified_split"]

BITS = 64


class SplitSpec(NamedTuple):
    """Fraction and seed that divide undivided images.

    Attributes:
        fraction: Approximate fraction of validation images.
        seed: Seed of the choice, beside each image's path.
        folds: Number of folds, or 0 for a single division.
        fold: Fold of the validation images, in 1..folds.
        group: Column or regular expression of the groups that stay together, or empty without groups.
    """

    fraction: float
    seed: int
    folds: int = 0
    fold: int = 0
    group: str = ""

    @property
    def in_words(self) -> str:
        """`a fraction of 0.2 is validated on, image by image`."""
        part = f"fold {self.fold} of {self.folds}" if self.folds else f"a fraction of {self.fraction:g}"
        return f"{part} is validated on, {'group by group' if self.group else 'image by image'}"


def portable(path: str) -> bytes:
    """Return a POSIX path as the same bytes on every system: macOS writes names in another normal form of Unicode."""
    return unicodedata.normalize("NFC", path).encode("utf-8", "surrogatepass")


def hash_fraction(path: str, seed: int) -> float:
    """Return a number in [0, 1) that follows from seed and path alone, evenly spread over paths."""
    digest = hashlib.sha256(f"{seed}\0".encode() + portable(path)).digest()
    return int.from_bytes(digest[: BITS // 8], "big") / 2**BITS


def hash_split(paths: Iterable[str], split: SplitSpec) -> tuple[np.ndarray, np.ndarray]:
    """Choose each image by a hash of (seed, path), independently of all other images.

    Adding, removing or renaming images moves no other image from one split to the other. In return the fraction is
    approximate, in all and in each class: of n images, n * fraction +- sqrt(n * fraction * (1 - fraction)) are chosen.
    A small class can miss one split. Moving images would correct this, but then other images would decide.

    Args:
        paths: Relative to the data's folder, whose location therefore doesn't matter.
        split: Fraction and seed. A larger fraction takes the same images and more.

    Returns:
        Two ascending arrays of positions: training images and validation images. Either may be empty.

    Raises:
        ValueError: A fraction outside (0, 1).
    """
    if not 0 < split.fraction < 1:
        raise ValueError(f"fraction={split.fraction} must lie between 0 and 1")
    fractions = np.array([hash_fraction(path, split.seed) for path in paths], dtype=np.float64)
    taken = fractions < split.fraction
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def stratified_split(labels: np.ndarray, fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Take the same fraction of every class out of a fixed list of images.

    Args:
        labels: (N,) class numbers.
        fraction: Fraction of the second split. Each class keeps at least one image on either side.
        seed: Seed of the choice.

    Returns:
        Two ascending arrays of positions in `labels`: the remaining and the chosen images.

    Raises:
        ValueError: `fraction` is outside (0, 1), or a class has fewer than two images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must lie between 0 and 1")
    randomness = np.random.RandomState(seed % 2**32)  # numpy never changes this generator's draws
    stays, taken = [], []
    for label in np.unique(labels):
        members = randomness.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(f"class {label} has 1 image; a split needs at least 2")
        cut = min(max(1, round(len(members) * fraction)), len(members) - 1)
        taken.append(members[:cut])
        stays.append(members[cut:])
    return np.sort(np.concatenate(stays)), np.sort(np.concatenate(taken))
