"""Test-time augmentation: the mean of the probabilities over several views of each image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data import eval_transform
from senet.data.band_transform import BandTransform
from senet.data.images import Stored, decode_stored
from senet.data.transforms import INTERPOLATIONS, ResizeToCover, ToMode, to_tensor
from senet.errors import SenetError, UnknownNameError
from senet.preprocessing import Preprocessing
from senet.tasks import MULTI_LABEL, SEGMENTATION
from senet.tasks.logits import logits_of
from senet.zoo import LoadedModel

__all__ = ["TTA", "AverageOfViews", "FlippedAverage", "Views", "with_flip", "with_views"]

TTA: Final = {"flip": 2, "five-crop": 5, "ten-crop": 10}
"""Test-time augmentation to its number of views."""


def with_views(loaded: LoadedModel, tta: str) -> tuple[Callable[[Any], Tensor], nn.Module]:
    """Return the transform of images and the network for test-time augmentation of a classifier.

    Args:
        loaded: The classifier.
        tta: A key of `TTA`, or empty for none.

    Returns:
        PIL image -> (C', H, W), and (N, C', H, W) -> logits (N, classes).

    Raises:
        UnknownNameError: There is no such augmentation.
        SenetError: The preprocessing leaves no margin around the crop.
    """
    if not tta:
        return eval_transform(loaded.preprocessing), loaded.model
    transform = Views(loaded.preprocessing, tta)
    average = AverageOfLabels if loaded.metadata.task == MULTI_LABEL else AverageOfViews
    return transform, average(loaded.model, TTA[tta], len(loaded.classes), name=loaded.metadata.model)


@final
class Views:
    """PIL image -> (views * C, H, W): the views of an image as further channels.

    Args:
        preprocessing: Of the network.
        tta: `"flip"` is the image and its mirror image. `"five-crop"` is the corners and the center of the resized
            image, `"ten-crop"` also their mirror images.

    Raises:
        UnknownNameError: There is no such augmentation.
        SenetError: The preprocessing leaves no margin around the crop.

    Source: Krizhevsky et al. 2012, section 4.1, for ten crops.
    """

    def __init__(self, preprocessing: Preprocessing, tta: str) -> None:
        if tta not in TTA:
            raise UnknownNameError("test-time augmentation", tta, TTA)
        if tta != "flip" and preprocessing.covered_size == preprocessing.size:
            raise SenetError(
                f"tta={tta!r} needs a margin around the crop, but crop_fraction={preprocessing.crop_fraction:g}; "
                "use a smaller one (--crop-fraction 0.875)"
            )
        cover = ResizeToCover(preprocessing.covered_size, INTERPOLATIONS[preprocessing.interpolation])
        bands = preprocessing.reads_bands
        self.resize = BandTransform(preprocessing, [cover]) if bands else v2.Compose([ToMode(preprocessing), cover])
        self.crops = v2.CenterCrop(preprocessing.size) if tta == "flip" else v2.FiveCrop(preprocessing.size)
        self.mirror = tta != "five-crop"
        self.pixels = nn.Identity() if bands else v2.Compose(to_tensor(preprocessing))

    def __call__(self, image: Any) -> Tensor:
        """Return the views of one image."""
        return self._views(self.resize(image))

    def decoded(self, stored: Stored) -> Tensor:
        """Return the views of a file's bytes.

        Raises:
            CorruptImage: The file can't be decoded.
        """
        whole = isinstance(self.resize, BandTransform)
        return self._views(self.resize.decoded(stored) if whole else self.resize(decode_stored(stored)))

    def _views(self, resized: Any) -> Tensor:
        found = self.crops(resized)
        views = [self.pixels(one) for one in (found if isinstance(found, tuple) else (found,))]
        return torch.cat([*views, *(one.flip(-1) for one in views)] if self.mirror else views)


class AverageOfViews(nn.Module):
    """A classifier of several views: the logarithm of its mean probabilities.

    Args:
        network: The classifier.
        views: Number of views of an image.
        classes: Number of classes.
        name: Name of the network, for messages.
    """

    def __init__(self, network: nn.Module, views: int, classes: int, *, name: str) -> None:
        super().__init__()
        self.network, self.views, self.classes, self.name = network, views, classes, name

    def forward(self, x: Tensor) -> Tensor:
        """(N, views * C, H, W) -> (N, classes), of which the softmax is the mean of the views' probabilities."""
        return self._logits(x).log_softmax(2).logsumexp(1) - math.log(self.views)

    def _logits(self, x: Tensor) -> Tensor:
        """(N, views * C, H, W) -> (N, views, classes)."""
        images = x.unflatten(1, (self.views, -1)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return logits_of(self.network(images), self.classes, name=self.name).float().unflatten(0, (-1, self.views))


@final
class AverageOfLabels(AverageOfViews):
    """The same for a multi-label classifier: the logit of the mean probability of each label."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, views * C, H, W) -> (N, classes), of which the sigmoid is the mean of the views' probabilities."""
        logits = self._logits(x)
        return F.logsigmoid(logits).logsumexp(1) - F.logsigmoid(-logits).logsumexp(1)


def with_flip(loaded: LoadedModel, tta: str) -> nn.Module:
    """Return a segmentation network's model, for `tta="flip"` with the mean over the image and its mirror image.

    Raises:
        SenetError: The network is a detector, or `tta` is for classifiers.
    """
    if not tta:
        return loaded.model
    if tta not in TTA:
        raise UnknownNameError("test-time augmentation", tta, TTA)
    if loaded.metadata.task != SEGMENTATION or tta != "flip":
        allowed = "flip" if loaded.metadata.task == SEGMENTATION else "no test-time augmentation"
        raise SenetError(f"tta={tta!r} is for classifiers; a {loaded.metadata.task} network takes {allowed}")
    return FlippedAverage(loaded.model, len(loaded.classes), name=loaded.metadata.model)


@final
class FlippedAverage(nn.Module):
    """A segmentation network on an image and its mirror image: the logarithm of its mean probabilities.

    Args:
        network: The network.
        classes: Number of classes.
        name: Name of the network, for messages.
    """

    def __init__(self, network: nn.Module, classes: int, *, name: str) -> None:
        super().__init__()
        self.network, self.classes, self.name = network, classes, name

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes, H, W)."""
        plain, mirrored = self._log_probabilities(x), self._log_probabilities(x.flip(-1)).flip(-1)
        return torch.logaddexp(plain, mirrored) - math.log(2)

    def _log_probabilities(self, x: Tensor) -> Tensor:
        return logits_of(self.network(x), self.classes, name=self.name, dims=4).float().log_softmax(1)
