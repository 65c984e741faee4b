"""What training varies in a picture. Plain fields only: a command line can read them without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Augmentation"]

CROPS = {"resized": ("scale", "ratio"), "pad": ("pad",), "zoom": ("zoom",), "none": ()}
"""The ways to crop, each with the fields that only it reads."""


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a training image, in the order in which they are applied.

    Attributes:
        crop: `"resized"`: a random part of the picture, resized; `"pad"`: a border of the mean colour (zero, once
            normalised), then a random crop (the CIFAR way: He et al. 2016, section 4.2); `"none"`: the
            evaluation's centre crop.
        scale: Area of the part that `"resized"` takes, as a fraction of the picture's.
        ratio: Width over height of that part.
        pad: Pixels that `"pad"` adds on each side.
        zoom: Smallest and largest factor by which `"zoom"` multiplies the size.
        flip: Probability of a left-right flip. Use 0 where left and right matter, as in digits and text.
        flip_vertical: Probability of an upside-down flip, for pictures without an upright: cells, satellite images.
        rotation: Rotation by an angle drawn from ± this many degrees.
        translate: Shift by up to this fraction of the width and of the height.
        jitter: Brightness, contrast and saturation are each scaled by 1 ± this strength.
        pixel_jitter: A number drawn from ± this many grey levels (of 255) is added to each colour channel.
        erasing: Probability that a random rectangle is replaced by the mean colour.
        cutout: Side in pixels of a square around a random place that is replaced by the mean colour; 0 is off.

    Raises:
        ValueError: A value out of its range, or one that the chosen `crop` doesn't read.
    """

    crop: str = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    zoom: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    flip_vertical: float = 0.0
    rotation: float = 0.0
    translate: float = 0.0
    jitter: float = 0.0
    pixel_jitter: float = 0.0
    erasing: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop!r}; use {', '.join(map(repr, CROPS))}")
        for name in ("flip", "flip_vertical", "translate", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("pad", "rotation", "jitter", "pixel_jitter", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale={self.scale} must be (smallest, largest) within (0, 1]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio={self.ratio} must be (smallest, largest), both positive")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom={self.zoom} must be (smallest, largest), both positive")
        self._refuse_unread_fields()

    def _refuse_unread_fields(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for crop, names in CROPS.items():
            for name in names:
                if crop != self.crop and getattr(self, name) != defaults[name]:
                    raise ValueError(
                        f"{name}={getattr(self, name)} is read by crop={crop!r} only; crop is {self.crop!r}"
                    )
