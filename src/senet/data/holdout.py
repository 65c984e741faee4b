"""Keeping part of the validation images away from the choice of the best epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from senet.data.sources import Data, Subset
from senet.data.split import hash_fraction

__all__ = ["hold_out"]


def hold_out(data: Data) -> Data:
    """Make about half of the validation images the test part, where data has none.

    A training chooses its best epoch on the validation part; what it is worth then shows on images that chose nothing.
    A hash of each image's path decides, so it is always the same half, and other images don't matter.

    Returns:
        The data as it is where it has a test part, or where a half would be empty.
    """
    if data.test is not None:
        return data
    fractions = np.array([hash_fraction(f"held out/{data.val.entry(index).path}", 0) for index in range(len(data.val))])
    stays, held_out = np.flatnonzero(fractions >= 0.5), np.flatnonzero(fractions < 0.5)
    if not len(stays) or not len(held_out):
        return data
    return replace(data, val=Subset(data.val, stays), test=Subset(data.val, held_out), held_out=True)
