"""Drawing masks over images, and writing them as PNG files."""

from __future__ import annotations

import numpy as np
from PIL import Image

from senet.tasks.drawing import colour

__all__ = ["draw_mask", "mask_image"]


def _palette(classes: int) -> np.ndarray:
    """(256, 3) uint8 colours, black for class 0."""
    found = np.zeros((256, 3), dtype=np.uint8)
    found[1:classes] = [colour(number) for number in range(classes - 1)]
    return found


def mask_image(mask: np.ndarray, classes: int) -> Image.Image:
    """Convert (H, W) class numbers to a palette image. Its pixels are the numbers, displayed in colours."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(_palette(classes).tobytes())
    return image


def draw_mask(image: Image.Image, mask: np.ndarray, classes: int, *, strength: float = 0.5) -> Image.Image:
    """Blend a copy of the image with the colours of all classes but 0.

    Args:
        image: In any mode.
        mask: (H, W) class numbers.
        classes: Number of classes.
        strength: Opacity of the colours, 0 to 1.
    """
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    mixed = (1 - strength) * pixels + strength * _palette(classes)[mask]
    return Image.fromarray(np.where(mask[..., None] > 0, mixed, pixels).round().astype(np.uint8))
