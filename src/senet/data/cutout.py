"""Cutout: replace a random square of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Cutout"]


class Cutout(nn.Module):
    """Replace a square around a random pixel. The square is cut at the image's edges.

    Args:
        side: Side of the square, in pixels.
        value: New value, one number or one for each channel.

    Shape:
        (C, H, W) -> the same.

    Source: DeVries & Taylor 2017 (arXiv 1708.04552), section 3.2.
    """

    def __init__(self, side: int, value: float | Sequence[float] = 0.0) -> None:
        super().__init__()
        self.side = side
        self.value = value

    def forward(self, image: Tensor) -> Tensor:
        """(C, H, W) -> (C, H, W). Draws from torch's global generator."""
        height, width = image.shape[-2:]
        row, column = int(torch.randint(height, ())), int(torch.randint(width, ()))
        top, left = row - self.side // 2, column - self.side // 2
        rows, columns = slice(max(0, top), max(0, top + self.side)), slice(max(0, left), max(0, left + self.side))
        value = torch.as_tensor(self.value, dtype=image.dtype)
        cut = image.clone()
        cut[:, rows, columns] = value.view(-1, 1, 1)
        return cut
