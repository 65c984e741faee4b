"""Bit depth of 16-bit images: 12 bits of a camera stored in 16 look nearly black without a white level."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from io import BytesIO

import numpy as np

from senet.data.images import CorruptImage, Depth, as_corrupt_image, decode_stored, depth_of, is_deep_colour, opened
from senet.data.sources import Data, Source
from senet.errors import DataError
from senet.preprocessing import DEEP_WHITE

__all__ = ["AUTO", "depth_at", "depth_note", "evenly", "full_scale", "with_white_level"]

AUTO = "auto"
"""Derives the white level from the training images."""


def depth_at(source: Source, index: int) -> Depth | None:
    """Return the depth of one image of a source, or None if it has fewer than 16 bits or is unreadable."""
    try:
        stored = source.stored(index)
        if stored is None:
            return depth_of(source[index][0])
        with as_corrupt_image(stored.name):
            header = opened(BytesIO(stored.content))
        colour = is_deep_colour(header)
        if not colour and not header.mode.startswith("I"):
            return None
        return depth_of(decode_stored(stored), colour=colour)
    except CorruptImage:
        return None


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced positions below `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def full_scale(largest: int) -> int:
    """Return the largest value of as few bits as a value needs: 4095 for 3000."""
    return int(2 ** max(1, largest.bit_length()) - 1)


def depth_note(found: Iterable[Depth], white_level: int = DEEP_WHITE) -> str:
    """Describe a mismatch of 16-bit images and their white level, empty if there is none."""
    found = list(found)
    grey = max((one.largest for one in found if not one.colour), default=0)
    colour = max((one.largest for one in found if one.colour), default=0)
    if grey > white_level:
        return f"16-bit images have values up to {grey:,}; values above --white-level {white_level} become white"
    fits = full_scale(grey)
    if grey and fits < white_level:
        return (
            f"16-bit images use {fits.bit_length()} bits (largest value {grey:,}), and {white_level:,} is white, so "
            f"they look dark: train with --white-level {fits}"
        )
    if grey and white_level == DEEP_WHITE:
        return "16-bit images become 8 bits; --channels 1 --bit-depth 16 keeps all of them"
    if colour and full_scale(colour) < DEEP_WHITE:
        return (
            f"16-bit colour images use {full_scale(colour).bit_length()} bits (values below {colour + 1:,}), so they "
            "look dark. Of 16-bit colours 8 bits are read; save them with 8 bits a channel, or train with --bit-depth "
            f"{full_scale(colour).bit_length()}"
        )
    if colour:
        return "of 16-bit colours 8 bits are read; --bit-depth 16 keeps all of them"
    return ""


def with_white_level(data: Data, white_level: int | str) -> Data:
    """Return a data set with the white level of `--white-level`.

    Args:
        data: With 16-bit training images.
        white_level: White of the images, or `"auto"`: the largest number of as many bits as the largest value needs.

    Raises:
        DataError: The value is no white level, or would have no effect.
    """
    if white_level != AUTO and not (isinstance(white_level, int) and 1 <= white_level <= DEEP_WHITE):
        raise DataError(f"--white-level {white_level} must be 1 to {DEEP_WHITE} (4095 for 12 bits), or auto")
    depth, positions = partial(depth_at, data.train), range(len(data.train))
    if white_level == AUTO:
        with ThreadPoolExecutor() as pool:
            seen = [one for one in pool.map(depth, positions) if one is not None]
    else:  # one image is enough
        seen = [one for one in [next(filter(None, map(depth, positions)), None)] if one is not None]
    if not seen:
        raise DataError(f"--white-level {white_level} has no effect: no training image of {data.name} has 16-bit grey")
    if any(one.colour for one in seen):
        raise DataError(
            f"--white-level {white_level} is for 16-bit grey; {data.name} has 16-bit colours, of which 8 bits are "
            "read; save them with 8 bits a channel"
        )
    level = full_scale(max(one.largest for one in seen)) if white_level == AUTO else int(white_level)
    return replace(data, white_level=level)
