"""What an image must go through before a network sees it; it travels with the network and its checkpoints."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CIFAR", "IMAGENET", "IMAGENET_CAFFE", "Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation-time path from a picture to a tensor: resize, centre crop, scale, normalise.

    Attributes:
        size: Height and width of the tensor in pixels.
        crop_fraction: The shorter edge is resized to `size / crop_fraction`, then the centre is cropped.
            1.0 resizes without cropping away anything of a square picture.
        interpolation: `"bilinear"`, `"bicubic"` or `"nearest"`.
        mean: Per channel, subtracted after scaling to `value_range`.
        std: Per channel, divided by after the subtraction.
        channel_order: `"RGB"`, `"BGR"` (Caffe's) or `"L"` (one grey channel).
        value_range: The value of a white pixel before normalising: 1.0, or 255.0 for Caffe's networks.

    Raises:
        ValueError: A field outside what is listed above.
    """

    size: tuple[int, int] = (224, 224)
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: str = "RGB"
    value_range: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size={self.size} must be (height, width) in pixels, both at least 1")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction={self.crop_fraction} must lie in (0, 1]")
        if self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"interpolation={self.interpolation!r}; use 'bilinear', 'bicubic' or 'nearest'")
        if self.channel_order not in ("RGB", "BGR", "L"):
            raise ValueError(f"channel_order={self.channel_order!r}; use 'RGB', 'BGR' or 'L'")
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} values; "
                f"channel_order={self.channel_order!r} needs {self.in_channels} of each"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std, self.value_range))):
            raise ValueError(f"mean={self.mean}, std={self.std} and value_range={self.value_range} must be finite")
        if min(self.std) <= 0 or self.value_range <= 0:
            raise ValueError(f"std={self.std} and value_range={self.value_range} must be positive")

    def __str__(self) -> str:
        height, width = self.size
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return (
            f"{height}x{width} pixels, {self.crop_fraction:.4g} of the shorter edge, {self.interpolation}, "
            f"{self.channel_order} in 0..{self.value_range:g}, mean {mean}, std {std}"
        )

    @property
    def in_channels(self) -> int:
        """Number of channels of the tensor."""
        return 1 if self.channel_order == "L" else 3

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote (lists, as JSON has them, become tuples)."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


IMAGENET = Preprocessing()
"""torchvision's and timm's usual statistics, 256 -> centre 224."""

IMAGENET_CAFFE = Preprocessing(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), channel_order="BGR", value_range=255.0)
"""The authors' released networks: BGR, 0..255, mean subtracted, no division (their prototxt)."""

CIFAR = Preprocessing(size=(32, 32), crop_fraction=1.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""CIFAR-10's channel statistics over its 50,000 training images."""
