"""Pictures with boxes that are much longer than wide: neither too large for memory, nor without a pixel of width.

A detector itself shrinks a picture until its longer side is the size's; of 10,000 x 10 pixels it would leave no height.
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
    """As torchvision's, but that no side of a sliver becomes 0 pixels."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The size, in pixels."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        return params | {"size": tuple(max(1, edge) for edge in params["size"])}


def shortened(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Width and height at which a detector gets a picture: its own, but for a sliver that is much longer than needed.

    Args:
        size: Of the picture.
        longest: Longest edge that the detector itself leaves.
    """
    long, short = max(size), min(size)
    if long <= LONGEST * short or long <= LONGEST * longest:
        return size
    width, height = (max(1, round(edge * LONGEST * longest / long)) for edge in size)
    return width, height


class Shorten(nn.Module):
    """Resize a picture that is `shortened`, with its boxes. Their overlaps stay what they are."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest

    def forward(self, image: Image.Image, target: dict[str, Any]) -> tuple[Image.Image, dict[str, Any]]:
        """Picture and target of torchvision's kinds."""
        width, height = shortened(image.size, self.longest)
        if (width, height) == image.size:
            return image, target
        both: tuple[Image.Image, dict[str, Any]] = v2.Resize([height, width])(image, target)
        return both


def bounded(image: Image.Image, longest: int, fill: Sequence[float]) -> Image.Image:
    """A picture as a detector can take it; nearly always as it is.

    A sliver is `shortened`. One of which the detector would leave nothing gets a border at its right or lower side,
    where that moves no box.

    Args:
        image: The picture.
        longest: Longest edge that the detector itself leaves.
        fill: Colour of the border.
    """
    size = shortened(image.size, longest)
    if size != image.size:
        image = v2.functional.resize(image, list(size[::-1]))
    least = math.ceil(LEAST_SIDE * max(size) / longest)
    right, below = (max(0, least - edge) for edge in size)
    return v2.functional.pad(image, [0, 0, right, below], fill=list(fill)) if right or below else image
