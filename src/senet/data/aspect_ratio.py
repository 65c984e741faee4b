"""Bounds for images whose aspect ratio is extreme, with their boxes.

A detector shrinks an image until its longer side has the requested size. Of 10,000 x 10 pixels it would leave no
height. These functions keep such an image small enough for memory and at least two pixels wide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import nn
from torchvision.transforms import v2

from senet.data.transforms import LONGEST

__all__ = ["ScaleJitter", "Shorten", "bounded", "shortened"]

LEAST_SIDE = 2
"""Pixels that a detector leaves of the shorter side."""


class ScaleJitter(v2.ScaleJitter):
    """torchvision's scale jitter, with at least one pixel a side."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the size in pixels."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        return params | {"size": tuple(max(1, edge) for edge in params["size"])}


def shortened(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the width and height at which a detector receives an image.

    Only an image much longer than needed gets another size than its own.

    Args:
        size: Width and height of the image.
        longest: Longest edge after the detector's own resizing.
    """
    long, short = max(size), min(size)
    if long <= LONGEST * short or long <= LONGEST * longest:
        return size
    width, height = (max(1, round(edge * LONGEST * longest / long)) for edge in size)
    return width, height


class Shorten(nn.Module):
    """Resize an image to its `shortened` size, with its boxes. The overlaps of the boxes don't change."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def forward(self, image: Image.Image, target: dict[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
        """Transform an image and its target of torchvision's types."""
        width, height = shortened(image.size, self.longest)
        if (width, height) == image.size:
            return image, target
        both: tuple[Image.Image, dict[str, Any]] = v2.Resize([height, width])(image, target)
        return both


def bounded(image: Image.Image, longest: int, fill: Sequence[float]) -> Image.Image:
    """Return an image that a detector can take.

    Most images are returned unchanged. A very long image is `shortened`. If the detector would still leave none of the
    shorter side, a border is added. It lies at the right or at the bottom, where it moves no box.

    Args:
        image: The image.
        longest: Longest edge after the detector's own resizing.
        fill: Colour of the border.
    """
    size = shortened(image.size, longest)
    if size != image.size:
        image = v2.functional.resize(image, list(size[::-1]))
    least = math.ceil(LEAST_SIDE * max(size) / longest)
    right, below = (max(0, least - edge) for edge in size)
    return v2.functional.pad(image, [0, 0, right, below], fill=list(fill)) if right or below else image
