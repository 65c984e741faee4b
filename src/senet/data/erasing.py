"""Random erasing: replace a random rectangle of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torchvision.transforms import v2

__all__ = ["NoiseErasing"]


class NoiseErasing(v2.RandomErasing):
    """`v2.RandomErasing` of uint8 images with a random colour for each pixel.

    Args:
        p: Probability.
        scale: Smallest and largest area of the rectangle, as fractions of the image's.
        ratio: Smallest and largest height over width of the rectangle.
        mean: Mean of each channel's normal distribution, in grey levels.
        std: Standard deviation of each channel, in grey levels.

    Shape:
        (C, H, W) uint8 -> the same.

    Source: Zhong et al. 2020 (arXiv 1708.04896), the variant RE-R.
    Differs: a normal distribution with the data's mean and deviation, as in timm, in place of a uniform one.
    """

    def __init__(
        self,
        p: float,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(p, scale, ratio)
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the rectangle, then its pixels."""
        params = super().make_params(flat_inputs)
        if params["v"] is not None:
            noise = torch.randn(len(self.mean), params["h"], params["w"])
            params["v"] = (self.mean + self.std * noise).round_().clamp_(0, 255).to(torch.uint8)
        return params
