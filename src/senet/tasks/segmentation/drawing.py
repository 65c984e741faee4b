"""Masks for people, and as PNG files for programs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from senet.tasks.drawing import colour

__all__ = ["draw_mask", "mask_image"]


def _palette(classes: int) -> np.ndarray:
    """(256, 3) uint8: black for class 0."""
    found = np.zeros((256, 3), dtype=np.uint8)
    found[1:classes] = [colour(number) for number in range(classes - 1)]
    return found


def mask_image(mask: np.ndarray, classes: int) -> Image.Image:
    """(H, W) class numbers as an image with a palette: its pixels are the numbers, shown in colours."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(_palette(classes).tobytes())
    return image


def draw_mask(image: Image.Image, mask: np.ndarray, classes: int, *, strength: float = 0.5) -> Image.Image:
    """A copy of the image, all classes but 0 mixed with their colours.

    Args:
        image: Any mode.
        mask: (H, W) class numbers.
        classes: How many there are.
        strength: Of the colours, 0 to 1.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    mixed = (1 - strength) * pixels + strength * _palette(classes)[mask]
    return Image.fromarray(np.where(mask[..., None] > 0, mixed, pixels).round().astype(np.uint8))
