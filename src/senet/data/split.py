"""Dividing one set of labels into a part for training and a part for validation."""

from __future__ import annotations

import numpy as np

__all__ = ["stratified_split"]


def stratified_split(labels: np.ndarray, fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Take the same fraction of every class away, at random but always the same images for the same seed.

    Args:
        labels: (N,) class numbers.
        fraction: The share that the second part gets; each class keeps at least one image on either side.
        seed: What the choice depends on.

    Returns:
        Two ascending arrays of positions in `labels`: what stays, and what was taken.

    Raises:
        ValueError: `fraction` outside (0, 1), or a class with fewer than two images.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction} must lie between 0 and 1")
    randomness = np.random.RandomState(seed % 2**32)  # numpy never changes what this generator draws
    stays, taken = [], []
    for label in np.unique(labels):
        members = randomness.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(f"class {label} has 1 image; a split needs at least 2")
        cut = min(max(1, round(len(members) * fraction)), len(members) - 1)
        taken.append(members[:cut])
        stays.append(members[cut:])
    return np.sort(np.concatenate(stays)), np.sort(np.concatenate(taken))
