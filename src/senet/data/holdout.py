"""Holding validation images out of the choice of the best epoch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from senet.data.sources import Data, Subset
from senet.data.split import hash_fraction

__all__ = ["hold_out"]


def hold_out(data: Data) -> Data:
    """Make about half of the validation images the test split of data that has none.

    A training chooses its best epoch on the validation split. Its accuracy then shows on images that played no role in
    this choice. A hash of each image's path decides, so the half is always the same, and other images don't matter.

    Returns:
        The data unchanged if it has a test split, or if one half would be empty.

    Example:
        >>> from senet.data import hold_out, open_data
        >>> data = hold_out(open_data("digits"))
        >>> len(data.train), len(data.val), len(data.test)
        (1438, 167, 192)
    """
    if data.test is not None:
        return data
    fractions = np.array([hash_fraction(f"held out/{data.val.entry(index).path}", 0) for index in range(len(data.val))])
    stays, held_out = np.flatnonzero(fractions >= 0.5), np.flatnonzero(fractions < 0.5)
    if not len(stays) or not len(held_out):
        return data
    return replace(data, val=Subset(data.val, stays), test=Subset(data.val, held_out), held_out=True)
