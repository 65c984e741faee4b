"""The preprocessing of images, which is stored with each network and checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Final, TypeVar

from senet.errors import SenetError, UnknownNameError, shown

__all__ = ["CIFAR", "DEEP_WHITE", "FLOAT_DEPTH", "IMAGENET", "IMAGENET_CAFFE", "Preprocessing"]

T = TypeVar("T")

INTERPOLATIONS: Final = ("bilinear", "bicubic", "nearest")
CHANNELS: Final = {"RGB": 3, "BGR": 3, "L": 1, "other": None}
"""The number of channels by channel order. None is the length of the mean."""

MOST_PIXELS, MOST_CHANNELS = 65_535, 65_535
DEEP_WHITE: Final = 65_535
"""The largest value of a 16-bit image."""
FLOAT_DEPTH: Final = 32
"""The bit depth of floating-point pixels."""
LARGEST: Final = 3.4e38
"""The largest float32, rounded down."""
SMALLEST: Final = 1.2e-38
"""The smallest normal float32, rounded up."""


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing at evaluation, from an image to a tensor: resize, center crop, scale, normalize.

    Attributes:
        size: Height and width of the tensor in pixels.
        crop_fraction: The shorter edge is resized to `size / crop_fraction`, rounded down, and the center is cropped.
            With 1.0, a square image isn't cropped.
        interpolation: `"bilinear"`, `"bicubic"` or `"nearest"`.
        mean: Subtracted per channel after scaling to `value_range`.
        std: Divides each channel after the subtraction.
        channel_order: `"RGB"`, `"BGR"` (Caffe's), `"L"` (one gray channel), or `"other"` for any number of channels,
            the length of `mean`, as in `.npy` files and multi-page TIFF files.
        value_range: The value of a white pixel before normalization: 1.0, or 255.0 for Caffe's networks.
        white_level: The value of white in 16-bit gray image files that are read in 8 bits. Larger values also become
            white. Cameras and microscopes often store 12 bits in 16, for which it is 4095. It doesn't affect 8-bit
            files.
        bit_depth: Bits of each value. With 8, 16-bit gray is scaled to 8 bits. With 9 to 16, pixels never pass through
            8 bits, and white of a 16-bit file is `2 ** bit_depth - 1`. With 32, pixels are floating-point numbers or
            any others, taken as they are.

    Raises:
        SenetError: A field is invalid, or an image would overflow float32 with these numbers.

    Example:
        >>> from senet.preprocessing import Preprocessing
        >>> preprocessing = Preprocessing(size=(192, 192), crop_fraction=0.75)
        >>> preprocessing.covered_size, preprocessing.in_channels
        ((256, 256), 3)
        >>> print(preprocessing.with_channels(1))
        192x192 pixels, 0.75 of the shorter edge, bilinear, L in 0..1, mean 0.449, std 0.226
    """

    size: tuple[int, int] = (224, 224)
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channel_order: str = "RGB"
    value_range: float = 1.0
    white_level: int = DEEP_WHITE
    bit_depth: int = 8

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            self._set(name, _several(name, getattr(self, name), _number))
        for name in ("crop_fraction", "value_range"):
            self._set(name, _number(name, getattr(self, name)))
        self._set("size", _several("size", self.size, _whole))
        for name in ("white_level", "bit_depth"):
            self._set(name, _whole(name, getattr(self, name)))
        self._check_geometry()
        self._check_channels()
        self._check_values()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _check_geometry(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise SenetError(f"size={shown(self.size)} must be (height, width) in pixels, both at least 1")
        if not 0 < self.crop_fraction <= 1:
            raise SenetError(f"crop_fraction={self.crop_fraction} must lie in (0, 1]")
        if max(self.size) / self.crop_fraction > MOST_PIXELS:
            raise SenetError(f"size={self.size} / crop_fraction={self.crop_fraction} is over {MOST_PIXELS:,} pixels")
        if not isinstance(self.interpolation, str) or self.interpolation not in INTERPOLATIONS:
            raise SenetError(f"interpolation={shown(self.interpolation)}; use 'bilinear', 'bicubic' or 'nearest'")

        if not 1 <= self.white_level <= DEEP_WHITE:
            raise SenetError(f"white_level={self.white_level} must be 1 to {DEEP_WHITE:,}, as 4095 for 12 bits")
        if not 8 <= self.bit_depth <= 16 and self.bit_depth != FLOAT_DEPTH:
            raise SenetError(f"bit_depth={self.bit_depth} must be 8 to 16, or {FLOAT_DEPTH} for floating point")

    def _check_channels(self) -> None:
        if not isinstance(self.channel_order, str) or self.channel_order not in CHANNELS:
            raise SenetError(f"channel_order={shown(self.channel_order)}; use 'RGB', 'BGR', 'L' or 'other'")
        needed = CHANNELS[self.channel_order]
        if needed is None and len(self.mean) == len(self.std) and 1 <= len(self.mean) <= MOST_CHANNELS:
            return
        if not len(self.mean) == len(self.std) == needed:
            needs = f"{needed} of each" if needed else f"as many of each, 1 to {MOST_CHANNELS:,}"
            raise SenetError(
                f"mean has {len(self.mean)} and std {len(self.std)} values; "
                f"channel_order={self.channel_order!r} needs {needs}"
            )

    def _check_values(self) -> None:
        # Written so that NaN also fails.
        if not all(abs(value) <= LARGEST for value in (*self.mean, *self.std, self.value_range)):
            raise SenetError(
                f"mean={shown(self.mean)}, std={shown(self.std)} and value_range={self.value_range} must be finite"
            )
        if min(*self.std, self.value_range) < SMALLEST:
            raise SenetError(f"std={shown(self.std)} and value_range={self.value_range} must be positive")
        white = self.value_range
        for mean, std in zip(self.mean, self.std, strict=True):
            # Normalized black and white, and both statistics in units of white.
            if (
                not max(abs(mean) / std, abs(white - mean) / std, abs(mean) / white, std / white, white / std)
                <= LARGEST
            ):
                raise SenetError(f"mean={mean} and std={std} with value_range={white} overflow float32")

    def __str__(self) -> str:
        height, width = self.size
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        deep = f", 16-bit white {self.white_level}" if self.white_level != DEEP_WHITE else ""
        if self.bit_depth != 8:
            deep = f", {'floating point' if self.bit_depth == FLOAT_DEPTH else f'{self.bit_depth} bits'}"
        return (
            f"{height}x{width} pixels, {self.crop_fraction:.4g} of the shorter edge, {self.interpolation}, "
            f"{self.channel_order} in 0..{self.value_range:g}, mean {mean}, std {std}{deep}"
        )

    @property
    def covered_size(self) -> tuple[int, int]:
        """Height and width that the resized image covers before the center crop, rounded down as in timm."""
        height, width = (math.floor(edge / self.crop_fraction) for edge in self.size)
        return height, width

    @property
    def in_channels(self) -> int:
        """Number of channels of the tensor."""
        return CHANNELS[self.channel_order] or len(self.mean)

    @property
    def reads_bands(self) -> bool:
        """Whether images are arrays of any channels and bit depth, rather than RGB or gray of 8 bits."""
        return self.channel_order == "other" or self.bit_depth != 8

    def with_statistics(self, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        """Return it with the mean and deviation of pixels in 0..1, as `senet doctor --statistics` prints them.

        Raises:
            SenetError: They are for another number of channels.
        """
        if not len(mean) == len(std) == self.in_channels:
            raise SenetError(
                f"statistics of {len(mean)} means and {len(std)} deviations; images have {self.in_channels} channels"
            )
        scaled = ([value * self.value_range for value in values] for values in (mean, std))
        ordered = (values[::-1] if self.channel_order == "BGR" else values for values in scaled)
        mean, std = map(tuple, ordered)
        return replace(self, mean=mean, std=std)

    def with_channels(self, channels: int) -> Preprocessing:
        """Return the preprocessing for another number of channels, with derived statistics.

        One channel is gray, with the average of mean and std. Any other number repeats the statistics in turn, as
        `load_weights` repeats the weights of a first convolution.

        Raises:
            SenetError: An impossible number of channels.
        """
        if channels == self.in_channels:
            return self
        if not 1 <= channels <= MOST_CHANNELS:
            raise SenetError(f"in_channels={channels}: images have 1 to {MOST_CHANNELS:,} channels")
        if channels == 1 and self.channel_order in ("RGB", "BGR"):
            mean, std = (sum(values) / len(values) for values in (self.mean, self.std))
            return replace(self, mean=(mean,), std=(std,), channel_order="L")
        order = "RGB" if self.channel_order == "L" and channels == 3 else "other"
        given = range(channels)
        return replace(
            self,
            mean=tuple(self.mean[c % self.in_channels] for c in given),
            std=tuple(self.std[c % self.in_channels] for c in given),
            channel_order=order,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dictionary. `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Create it from the dictionary of `to_dict`. Missing fields have their defaults.

        Raises:
            UnknownNameError: There is no such field. Names the nearest.
            SenetError: It isn't a dictionary, or has an impossible value.
        """
        if not isinstance(values, Mapping):
            raise SenetError(f"preprocessing={shown(values)} must be a dictionary of its fields")
        known = {f.name for f in fields(cls)}
        for key in values:
            if key not in known:
                raise UnknownNameError("field of preprocessing", key, known)
        return cls(**values)


def _several(name: str, values: object, convert: Callable[[str, object], T]) -> tuple[T, ...]:
    if not isinstance(values, tuple | list):
        raise SenetError(f"{name}={shown(values)} must be a list of numbers")
    return tuple(convert(name, value) for value in values)


def _number(name: str, value: object) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise SenetError(f"{name}: {shown(value)} is not a number")
    try:
        return float(value)
    except OverflowError:
        raise SenetError(f"{name}: {shown(value)} must be finite") from None


def _whole(name: str, value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise SenetError(f"{name}: {shown(value)} is not a whole number")
    return int(value)


IMAGENET = Preprocessing()
"""The usual statistics of torchvision and timm: resize to 256, center crop 224."""

IMAGENET_CAFFE = Preprocessing(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), channel_order="BGR", value_range=255.0)
"""The preprocessing of the authors' released networks: BGR, 0..255, mean subtracted, no division (their prototxt)."""

CIFAR = Preprocessing(size=(32, 32), crop_fraction=1.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""CIFAR-10's channel statistics over its 50,000 training images."""
