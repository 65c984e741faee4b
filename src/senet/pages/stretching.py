"""Pictures of images with any channels and values, to look at."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["stretched"]

PERCENTILES = (1, 99)
"""Percentiles of a band's values that become black and white."""


def stretched(bands: np.ndarray) -> Image.Image:
    """(C, H, W) of any type -> RGB image of the first three bands, or gray image of the first where there are fewer.

    Example:
        >>> import numpy as np
        >>> from senet.pages.stretching import stretched
        >>> stretched(np.linspace(0, 65535, 4 * 8 * 8, dtype=np.uint16).reshape(4, 8, 8)).mode
        'RGB'
    """
    shown = bands[: 3 if len(bands) >= 3 else 1].astype(np.float64)
    low, high = (value[:, None, None] for value in np.percentile(shown, PERCENTILES, axis=(1, 2)))
    levels = np.clip((shown - low) / np.maximum(high - low, np.finfo(np.float64).tiny), 0, 1) * 255
    pixels = np.ascontiguousarray(np.rint(levels).astype(np.uint8).transpose(1, 2, 0))
    return Image.fromarray(pixels if len(shown) == 3 else pixels[..., 0])
