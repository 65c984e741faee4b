"""Options of data augmentation. Plain fields only, so that a command line can read them without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from senet.errors import SenetError

__all__ = ["Augmentation"]

CROPS = {"random-resized": ("scale", "ratio"), "pad": ("pad",), "scale-jitter": ("scale_jitter",), "none": ()}
"""Kinds of crops. Each has the fields that only this crop reads."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image, in the order in which they are applied.

    Attributes:
        crop: Way to cut the training image: `"random-resized"`, `"pad"` (a border, then a random crop),
            `"scale-jitter"` (a random scale, then a random crop) or `"none"` (the center crop of evaluation).
        scale: Smallest and largest area of a random-resized crop, as fractions of the image's.
        ratio: Smallest and largest width over height of a random-resized crop.
        pad: Border of the pad crop on each side, in pixels.
        scale_jitter: Smallest and largest factor of the size for the scale-jitter crop.
        hflip: Probability of a left-right flip. Use 0 where left and right matter, as in digits and text.
        vflip: Probability of an upside-down flip, for images without an upright such as cells and satellite images.
        rotation: Largest angle of a random rotation to either side, in degrees.
        translate: Largest shift, as a fraction of the width and of the height.
        color_jitter: Strength of random brightness, contrast and saturation: each is scaled by 1 ± this.
        pixel_jitter: Largest number of gray levels (of 255) that is added to or subtracted from each color channel.
        random_erasing: Probability that a random rectangle is replaced by the mean color.
        cutout: Side of a random square that is replaced by the mean color, in pixels (0 is off).

    Raises:
        SenetError: A value is out of its range, or the chosen `crop` doesn't read it.

    Example:
        >>> from senet.data import Augmentation
        >>> augmentation = Augmentation(crop="pad", pad=2, hflip=0.0)
        >>> augmentation.changed(crop="random-resized").scale
        (0.08, 1.0)
    """

    crop: str = "random-resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    scale_jitter: tuple[float, float] = (0.5, 2.0)
    hflip: float = 0.5
    vflip: float = 0.0
    rotation: float = 0.0
    translate: float = 0.0
    color_jitter: float = 0.0
    pixel_jitter: float = 0.0
    random_erasing: float = 0.0
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise SenetError(f"crop={self.crop!r}; use {', '.join(map(repr, CROPS))}")
        for name in ("scale", "ratio", "scale_jitter"):
            self._check_pair(name, getattr(self, name))
        for name in ("hflip", "vflip", "translate", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise SenetError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("pad", "rotation", "color_jitter", "pixel_jitter", "cutout"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SenetError(f"{name}={getattr(self, name)} must be finite and not negative")
        if self.scale[1] > 1:
            raise SenetError(f"scale={self.scale} must lie within (0, 1]; it is a fraction of the image's area")
        for name in self._unread():
            if getattr(self, name) != DEFAULTS[name]:
                raise SenetError(
                    f"{name}={getattr(self, name)} is read by {_readers(name)} only; crop is {self.crop!r}"
                )

    def _check_pair(self, name: str, value: object) -> None:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise SenetError(
                f"{name}={value} must be two numbers, the smallest and the largest, such as {DEFAULTS[name]}"
            )
        if not 0 < value[0] <= value[1] < math.inf:
            raise SenetError(f"{name}={value} must be the smallest and the largest, both positive")

    def _unread(self) -> list[str]:
        """List the fields that only other crops read."""
        return [name for names in CROPS.values() for name in names if name not in CROPS[self.crop]]

    def changed(self, **given: Any) -> Augmentation:
        """Return this augmentation with other values. A new crop starts from its own defaults.

        Raises:
            SenetError: A value is impossible, or the crop doesn't read it.
        """
        crop = given.get("crop", self.crop)
        own = {name: DEFAULTS[name] for name in CROPS[self.crop]} if crop != self.crop else {}
        found = replace(self, **own | given)
        for name in found._unread():
            if name in given:
                raise SenetError(f"{name}={given[name]} is read by {_readers(name)} only; crop is {crop!r}")
        return found


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Augmentation)}


def _readers(name: str) -> str:
    return " or ".join(f"crop={crop!r}" for crop, names in CROPS.items() if name in names)
