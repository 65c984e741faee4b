"""Transforms from an image to a network's input tensor, exact for evaluation and random for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import ConvertImageDtype, InterpolationMode, v2

from senet.data.augmentation import Augmentation
from senet.data.band_transform import BandTransform, train_band_transform
from senet.data.cropping import TENSOR_MODES, PaddedCrop, PartialCrop
from senet.data.cutout import Cutout
from senet.data.erasing import NoiseErasing
from senet.data.images import Stored, decode_stored, to_8_bits
from senet.data.policy import NONE, parse_policy
from senet.errors import SenetError
from senet.pages.stretching import stretched
from senet.preprocessing import Preprocessing

__all__ = [
    "Normalise",
    "PixelJitter",
    "ResizeToCover",
    "ToMode",
    "TrainTransform",
    "as_image",
    "at_train_size",
    "eval_transform",
    "mean_colour",
    "pillow_mode",
    "to_tensor",
    "train_transform",
]

INTERPOLATIONS = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}

MODES: dict[str, type[nn.Module]] = {"RGB": v2.RGB, "L": v2.Grayscale}

LONGEST = 16
"""Largest aspect ratio before resizing. Longer images are cut to it. A 1 x 10,000 image, resized to cover 224 x 224,
would fill gigabytes, of which the centre crop keeps a thousandth.
"""


def eval_transform(preprocessing: Preprocessing) -> v2.Compose | BandTransform:
    """Make the evaluation transform: PIL image -> (C, H, W) float32, by resizing, centre crop, scaling and normalising.

    Resizing is Pillow's (with antialiasing), as in the presets of torchvision's weights. Images of other channels or
    more bits are resized as tensors, see `BandTransform`.

    Example:
        >>> from senet.data import eval_transform, sample_images
        >>> from senet.preprocessing import Preprocessing
        >>> transform = eval_transform(Preprocessing(size=(224, 224)))
        >>> transform(sample_images(1)[0]).shape
        torch.Size([3, 224, 224])
    """
    if preprocessing.reads_bands:
        return BandTransform(preprocessing, _whole(preprocessing))
    return v2.Compose([ToMode(preprocessing), *_whole(preprocessing), *to_tensor(preprocessing)])


def pillow_mode(preprocessing: Preprocessing) -> str:
    """Return the Pillow mode of a network's images: `"RGB"` or `"L"`.

    Raises:
        SenetError: The network takes other channels or more bits.
    """
    if preprocessing.reads_bands:
        raise SenetError(
            f"this network takes images of {preprocessing}, and detection and segmentation read 8-bit RGB or grey"
        )
    return "L" if preprocessing.channel_order == "L" else "RGB"


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> TrainTransform | BandTransform:
    """Make the training transform: image -> (C, H, W) uint8, randomly augmented. `Normalise` then prepares a whole
    batch. Images of other channels or more bits become normalised float32 at once, see `BandTransform`.

    Example:
        >>> from senet.data import Augmentation, sample_images, train_transform
        >>> from senet.preprocessing import Preprocessing
        >>> transform = train_transform(Preprocessing(size=(64, 64)), Augmentation(vflip=0.5))
        >>> tensor = transform(sample_images(1)[0])
        >>> tensor.shape, tensor.dtype
        (torch.Size([3, 64, 64]), torch.uint8)
    """
    if preprocessing.reads_bands:
        _refuse_crop(augmentation)
        preprocessing = at_train_size(preprocessing, augmentation)
        cover = ResizeToCover(preprocessing.size, _interpolation(preprocessing))
        return train_band_transform(
            preprocessing, augmentation, _interpolation(preprocessing), _whole(preprocessing), cover
        )
    return TrainTransform(preprocessing, augmentation)


def _refuse_crop(augmentation: Augmentation) -> None:
    if augmentation.crop not in CROPS:
        raise SenetError(
            f"crop={augmentation.crop!r} is for detection and segmentation; use {', '.join(map(repr, CROPS))}"
        )


class TrainTransform:
    """Image -> (C, H, W) uint8, randomly augmented. Every draw comes from torch's global CPU generator.

    A stored image is decoded here, since a random crop can be decoded faster than the whole.

    Args:
        preprocessing: Of the network.
        augmentation: Random changes.

    Raises:
        SenetError: The crop is for other tasks.
    """

    def __init__(self, preprocessing: Preprocessing, augmentation: Augmentation) -> None:
        a = augmentation
        _refuse_crop(a)
        preprocessing = at_train_size(preprocessing, a)
        moved = v2.RandomAffine(a.rotation, (a.translate, a.translate), interpolation=InterpolationMode.BILINEAR)
        by_pillow: list[tuple[float, nn.Module]] = [
            (a.augment != NONE, _policy(preprocessing, a)),
            (a.rotation or a.translate, moved),
            (a.color_jitter, v2.ColorJitter(a.color_jitter, a.color_jitter, a.color_jitter)),
        ]
        of_tensors: list[tuple[float, nn.Module]] = [
            (a.pixel_jitter, PixelJitter(a.pixel_jitter)),
            (a.random_erasing, _erasing(preprocessing, a)),
            (a.cutout, Cutout(a.cutout, mean_colour(preprocessing))),
        ]
        self.mode = ToMode(preprocessing)
        self.part = _part(preprocessing, a)
        self.crop = [] if self.part else CROPS[a.crop](preprocessing, a)
        self.hflip, self.vflip = a.hflip, a.vflip
        self.by_pillow = [step for strength, step in by_pillow if strength]
        self.of_tensors = [step for strength, step in of_tensors if strength]

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image -> (C, H, W) uint8."""
        image = self.mode(image)
        if self.part is not None:
            return self._vary(self.part(image))
        for step in self.crop:
            image = step(image)
        return self._vary(image)

    def decoded(self, stored: Stored) -> Tensor:
        """A file's bytes -> (C, H, W) uint8.

        Raises:
            CorruptImage: The file can't be decoded.
        """
        return self(decode_stored(stored)) if self.part is None else self._vary(self.part.decoded(stored))

    def _vary(self, image: Image.Image | Tensor) -> Tensor:
        """Apply all steps after the crop, in the order of `Augmentation`."""
        if self.hflip and torch.rand(1).item() < self.hflip:  # v2's module takes four times as long for this draw
            image = image.flip(-1) if isinstance(image, Tensor) else v2.functional.horizontal_flip(image)
        if self.vflip and torch.rand(1).item() < self.vflip:
            image = image.flip(-2) if isinstance(image, Tensor) else v2.functional.vertical_flip(image)
        if self.by_pillow and isinstance(image, Tensor):
            image = v2.functional.to_pil_image(image)
        for step in self.by_pillow:
            image = step(image)
        pixels = image if isinstance(image, Tensor) else v2.functional.pil_to_tensor(image)
        for step in self.of_tensors:
            pixels = step(pixels)
        return pixels


class ToMode(nn.Module):
    """PIL image in any mode of `decode_image` -> `"RGB"` or `"L"`, as the network expects.

    Args:
        preprocessing: Of the network.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.white_level = preprocessing.white_level
        self.mode = MODES[pillow_mode(preprocessing)]()

    def forward(self, image: Image.Image) -> Image.Image:
        """PIL image -> PIL image."""
        result: Image.Image = self.mode(to_8_bits(image, self.white_level))
        return result


class Normalise(nn.Module):
    """(N, C, H, W) uint8 -> float32, bit-identical to the end of `eval_transform`.

    It runs once for each batch, on the network's device. Workers and GPUs then exchange a quarter of the bytes.

    Args:
        preprocessing: Of the network.

    Example:
        >>> import torch
        >>> from senet.data import Normalise
        >>> from senet.preprocessing import Preprocessing
        >>> normalise = Normalise(Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
        >>> normalise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)).unique()
        tensor([1.])
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        white, mean, std = _scaling(preprocessing)
        self.divisor = 255.0 if white == 1 else 1.0
        self.reverse = preprocessing.channel_order == "BGR"
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 -> float32. Float images are returned unchanged."""
        if images.dtype != torch.uint8:
            return images
        if self.reverse:
            images = images.flip(1)
        result = torch.empty_like(images, dtype=torch.float32)
        # On the CPU one image at a time, which stays in the cache from one operation to the next.
        for source, target in zip(images, result, strict=True) if images.device.type == "cpu" else ((images, result),):
            target.copy_(source).div_(self.divisor).sub_(self.mean).div_(self.std)
        return result


class ResizeToCover(nn.Module):
    """Resize an image, keeping its aspect ratio, so that it just covers a rectangle.

    For a square this is torchvision's `Resize(edge)`: the shorter edge becomes `edge`.

    Args:
        size: Height and width to cover, in pixels.
        interpolation: Interpolation of pixels.
    """

    def __init__(self, size: tuple[int, int], interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.interpolation = interpolation

    def forward(self, image: Image.Image | Tensor) -> Image.Image | Tensor:
        """PIL image -> PIL image, or (C, H, W) -> the same."""
        height, width = self.size
        longest = LONGEST * max(height / width, width / height)
        rows, columns = v2.functional.get_size(image)
        cut = [min(rows, int(longest * columns)), min(columns, int(longest * rows))]
        if cut != [rows, columns]:
            image, (rows, columns) = v2.functional.center_crop(image, cut), cut
        if height * columns <= width * rows:
            covering = [max(height, int(width * rows / columns)), width]
        else:
            covering = [height, max(width, int(height * columns / rows))]
        return v2.functional.resize(image, covering, interpolation=self.interpolation)


class PixelJitter(nn.Module):
    """Add a random number to each colour channel of a (C, H, W) uint8 image, and clip to 0..255.

    Args:
        levels: The number is uniform in ± this many grey levels.

    Source: the "pixel jitter -20 ~ 20" of the authors' released training setup.
    Differs: the setup doesn't specify a draw for each pixel or for each channel. Here each channel has one.
    """

    def __init__(self, levels: float) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, image: Tensor) -> Tensor:
        """(C, H, W) uint8 -> (C, H, W) uint8."""
        shift = torch.empty(image.shape[0], 1, 1).uniform_(-self.levels, self.levels)
        return (image + shift).round_().clamp_(0, 255).to(torch.uint8)


def _interpolation(preprocessing: Preprocessing) -> InterpolationMode:
    return INTERPOLATIONS[preprocessing.interpolation]


def _whole(preprocessing: Preprocessing, _: Augmentation | None = None) -> list[nn.Module]:
    return [ResizeToCover(preprocessing.covered_size, _interpolation(preprocessing)), v2.CenterCrop(preprocessing.size)]


def _resized(preprocessing: Preprocessing, a: Augmentation) -> list[nn.Module]:
    return [v2.RandomResizedCrop(preprocessing.size, a.scale, a.ratio, _interpolation(preprocessing))]


def _padded(preprocessing: Preprocessing, a: Augmentation) -> list[nn.Module]:
    size = preprocessing.size
    return [
        ResizeToCover(size, _interpolation(preprocessing)),
        v2.RandomCrop(size, padding=a.pad, fill=mean_colour(preprocessing)),
    ]


POLICIES: dict[str, Callable[..., nn.Module]] = {
    NONE: nn.Identity,
    "trivial": v2.TrivialAugmentWide,
    "rand": v2.RandAugment,
    "augmix": v2.AugMix,
    "auto": v2.AutoAugment,
}
"""Name in `senet.data.policy.POLICIES` to its class, whose first arguments are the policy's options in their order."""


def _policy(preprocessing: Preprocessing, a: Augmentation) -> nn.Module:
    policy = parse_policy(a.augment)
    shared = {"interpolation": InterpolationMode.BILINEAR, "fill": mean_colour(preprocessing)}
    return POLICIES[policy.name](*policy.options.values(), **shared)


def _erasing(preprocessing: Preprocessing, a: Augmentation) -> nn.Module:
    mean = mean_colour(preprocessing)
    if a.erasing_value == "noise":
        std = _grey_levels(preprocessing, preprocessing.std)
        return NoiseErasing(a.random_erasing, a.erasing_scale, a.erasing_ratio, mean=mean, std=std)
    value = mean if a.erasing_value == "mean" else 0
    return v2.RandomErasing(a.random_erasing, a.erasing_scale, a.erasing_ratio, value=value)


CROPS: dict[str, Callable[[Preprocessing, Augmentation], list[nn.Module]]] = {
    "random-resized": _resized,
    "pad": _padded,
    "none": _whole,
}


def _part(preprocessing: Preprocessing, a: Augmentation) -> PartialCrop | PaddedCrop | None:
    """Return the crop that decodes only a region, if it gives the result of `CROPS`."""
    size, interpolation = preprocessing.size, _interpolation(preprocessing)
    if preprocessing.channel_order == "L":
        return None
    if a.crop == "pad":
        fill = tuple(mean_colour(preprocessing))
        return PaddedCrop(size, a.pad, fill, ResizeToCover(size, interpolation), preprocessing.white_level)
    if a.crop == "random-resized" and interpolation in TENSOR_MODES:
        return PartialCrop(size, a.scale, a.ratio, interpolation, preprocessing.white_level)
    return None


def _scaling(preprocessing: Preprocessing) -> tuple[float, list[float], list[float]]:
    """Return the white after scaling (1, or 255 for no scaling), and mean and deviation on this scale."""
    stays = preprocessing.value_range == 255
    white = 1.0 if stays else preprocessing.value_range
    mean, std = ([value / white for value in values] for values in (preprocessing.mean, preprocessing.std))
    return 255.0 if stays else 1.0, mean, std


def mean_colour(preprocessing: Preprocessing) -> list[float]:
    """Return the mean colour in whole grey levels of 255, in the order of the stored channels."""
    return [float(min(255, max(0, round(level)))) for level in _grey_levels(preprocessing, preprocessing.mean)]


def _grey_levels(preprocessing: Preprocessing, values: Sequence[float]) -> list[float]:
    """Return values of the channels in grey levels of 255, in the order of the stored channels."""
    levels = [value / preprocessing.value_range * 255 for value in values]
    return levels[::-1] if preprocessing.channel_order == "BGR" else levels


def at_train_size(preprocessing: Preprocessing, a: Augmentation) -> Preprocessing:
    """Return the preprocessing at the size of training images: the shorter edge is `train_size`.

    Example:
        >>> from senet.data import Augmentation
        >>> from senet.data.transforms import at_train_size
        >>> from senet.preprocessing import Preprocessing
        >>> at_train_size(Preprocessing(size=(256, 192)), Augmentation(train_size=96)).size
        (128, 96)
    """
    if not a.train_size:
        return preprocessing
    height, width = (max(1, round(edge * a.train_size / min(preprocessing.size))) for edge in preprocessing.size)
    return replace(preprocessing, size=(height, width))


def as_image(pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
    """(C, H, W) float32, normalised -> RGB or grey image, the inverse of `Normalise`. Of other channels, see `preview`.

    Example:
        >>> import torch
        >>> from senet.data.transforms import Normalise, as_image
        >>> from senet.preprocessing import Preprocessing
        >>> preprocessing = Preprocessing(size=(2, 2))
        >>> grey = torch.full((1, 3, 2, 2), 77, dtype=torch.uint8)
        >>> as_image(Normalise(preprocessing)(grey)[0], preprocessing).getpixel((0, 0))
        (77, 77, 77)
    """
    if preprocessing.reads_bands:
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        return stretched((pixels * std + mean).numpy())
    white, mean, std = (torch.tensor(values).view(-1, 1, 1) for values in _scaling(preprocessing))
    levels = ((pixels * std + mean) / white * 255).round().clamp(0, 255).to(torch.uint8)
    image: Image.Image = v2.functional.to_pil_image(levels.flip(0) if preprocessing.channel_order == "BGR" else levels)
    return image


def to_tensor(preprocessing: Preprocessing) -> list[nn.Module]:
    """Make the steps that scale white to 1, or leave it at 255, and then normalise."""
    white, mean, std = _scaling(preprocessing)
    reverse = [v2.Lambda(_reversed_channels)] if preprocessing.channel_order == "BGR" else []
    # ConvertImageDtype divides by 255, as torchvision's presets do. v2's ToDtype multiplies by 1/255, another last bit.
    scaled = v2.ToDtype(torch.float32) if white == 255 else ConvertImageDtype(torch.float32)
    return [v2.PILToTensor(), scaled, *reverse, v2.Normalize(mean, std)]


def _reversed_channels(image: Tensor) -> Tensor:
    return image.flip(0)
