"""Options of data augmentation. Plain fields only, so that a command line can read them without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from senet.data.policy import NONE, parse_policy
from senet.errors import SenetError

__all__ = ["Augmentation"]

CROPS = {"random-resized": ("scale", "ratio"), "pad": ("pad",), "scale-jitter": ("scale_jitter",), "none": ()}
"""Kinds of crops. Each has the fields that only this crop reads."""

ERASING = ("erasing_scale", "erasing_ratio", "erasing_value")
"""Fields that only random erasing reads."""

ERASING_VALUES = ("mean", "black", "noise")


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
        train_size: Shorter side of training images in pixels, or 0 for the size at which the network is tested.
        hflip: Probability of a left-right flip. Use 0 where left and right matter, as in digits and text.
        vflip: Probability of an upside-down flip, for images without an upright such as cells and satellite images.
        augment: Policy of random operations on colors and geometry: `"trivial"`, `"rand:n=2,m=9"` (n operations of
            strength m in 0..30), `"augmix:severity=3,width=3"`, `"auto"` (of ImageNet) or `"none"`. The empty area is
            filled with the mean color.
        rotation: Largest angle of a random rotation to either side, in degrees.
        translate: Largest shift, as a fraction of the width and of the height.
        color_jitter: Strength of random brightness, contrast and saturation: each is scaled by 1 ± this.
        pixel_jitter: Largest number of gray levels (of 255) that is added to or subtracted from each color channel.
        random_erasing: Probability that a random rectangle is replaced.
        erasing_scale: Smallest and largest area of this rectangle, as fractions of the image's.
        erasing_ratio: Smallest and largest height over width of this rectangle.
        erasing_value: Content of this rectangle: `"mean"` (the mean color), `"black"` or `"noise"` (a random color for
            each pixel).
        cutout: Side of a random square that is replaced by the mean color, in pixels (0 is off).

    Raises:
        SenetError: A value is out of its range, or nothing reads it, such as `pad` with another `crop`.

    Example:
        >>> from senet.data import Augmentation
        >>> augmentation = Augmentation(crop="pad", pad=2, hflip=0.0)
        >>> augmentation.changed(crop="random-resized").scale
        (0.08, 1.0)
        >>> Augmentation(augment="rand:n=2,m=9", random_erasing=0.25, erasing_value="noise").augment
        'rand:n=2,m=9'

    Source: Müller & Hutter 2021 (TrivialAugment, arXiv 2103.10158), Cubuk et al. 2020 (RandAugment, arXiv 1909.13719),
    Hendrycks et al. 2020 (AugMix, arXiv 1912.02781), Cubuk et al. 2019 (AutoAugment, arXiv 1805.09501), Zhong et al.
    2020 (random erasing, arXiv 1708.04896), Touvron et al. 2019 (sizes of training and test, arXiv 1906.06423).
    """

    crop: str = "random-resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pad: int = 4
    scale_jitter: tuple[float, float] = (0.5, 2.0)
    train_size: int = 0
    hflip: float = 0.5
    vflip: float = 0.0
    augment: str = NONE
    rotation: float = 0.0
    translate: float = 0.0
    color_jitter: float = 0.0
    pixel_jitter: float = 0.0
    random_erasing: float = 0.0
    erasing_scale: tuple[float, float] = (0.02, 0.33)
    erasing_ratio: tuple[float, float] = (0.3, 3.3)
    erasing_value: str = "mean"
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise SenetError(f"crop={self.crop!r}; use {', '.join(map(repr, CROPS))}")
        parse_policy(self.augment)
        if self.erasing_value not in ERASING_VALUES:
            raise SenetError(f"erasing_value={self.erasing_value!r}; use {', '.join(map(repr, ERASING_VALUES))}")
        for name in ("scale", "ratio", "scale_jitter", "erasing_scale", "erasing_ratio"):
            self._check_pair(name, getattr(self, name))
        for name in ("hflip", "vflip", "translate", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise SenetError(f"{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("pad", "train_size", "rotation", "color_jitter", "pixel_jitter", "cutout"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SenetError(f"{name}={getattr(self, name)} must be finite and not negative")
        for name in ("scale", "erasing_scale"):
            if getattr(self, name)[1] > 1:
                raise SenetError(
                    f"{name}={getattr(self, name)} must lie within (0, 1]; it is a fraction of the image's area"
                )
        for name in self._unread():
            if getattr(self, name) != DEFAULTS[name]:
                raise SenetError(f"{name}={getattr(self, name)} is read by {_readers(name)} only; {self._actual(name)}")

    def _check_pair(self, name: str, value: object) -> None:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise SenetError(
                f"{name}={value} must be two numbers, the smallest and the largest, such as {DEFAULTS[name]}"
            )
        if not 0 < value[0] <= value[1] < math.inf:
            raise SenetError(f"{name}={value} must be the smallest and the largest, both positive")

    def _unread(self) -> list[str]:
        """List the fields that only other crops, or random erasing, read."""
        crops = [name for names in CROPS.values() for name in names if name not in CROPS[self.crop]]
        return [*crops, *(() if self.random_erasing else ERASING)]

    def _actual(self, name: str) -> str:
        return "random_erasing is 0" if name in ERASING else f"crop is {self.crop!r}"

    def changed(self, **given: Any) -> Augmentation:
        """Return this augmentation with other values. A new crop starts from its own defaults, and so does random
        erasing that is turned off.

        Raises:
            SenetError: A value is impossible, or the crop doesn't read it.
        """
        crop = given.get("crop", self.crop)
        own = {name: DEFAULTS[name] for name in CROPS[self.crop]} if crop != self.crop else {}
        if not given.get("random_erasing", self.random_erasing):
            own |= {name: DEFAULTS[name] for name in ERASING}
        found = replace(self, **own | given)
        for name in found._unread():
            if name in given:
                raise SenetError(f"{name}={given[name]} is read by {_readers(name)} only; {found._actual(name)}")
        return found


DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Augmentation)}


def _readers(name: str) -> str:
    if name in ERASING:
        return "random_erasing"
    return " or ".join(f"crop={crop!r}" for crop, names in CROPS.items() if name in names)
