"""Rare classes: class counts, weights of classes, and an order of images in which all classes are equally frequent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from senet.data.labels import class_totals
from senet.data.randomness import generator
from senet.data.sampler import Order
from senet.data.sources import Source
from senet.errors import SenetError

__all__ = ["balanced_order", "balanced_weights", "class_counts", "positive_weights", "rare_classes", "weights_by_name"]

RARE = 4
"""A class with less than this fraction (1 / RARE) of an equal share of the images is rare."""
NAMED = 5


def class_counts(source: Source, classes: Sequence[str]) -> dict[str, int]:
    """Return the number of images of each class.

    Example:
        >>> from senet.data import open_data
        >>> from senet.data.balance import class_counts
        >>> data = open_data("digits")
        >>> class_counts(data.val, data.classes)["7"]
        36
    """
    counts = class_totals(source.labels, len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def rare_classes(counts: Mapping[str, int], images: int | None = None) -> list[str]:
    """Describe the rare classes: fewer images than a quarter of an equal share.

    Args:
        counts: Class to its number of images.
        images: Number of all images, which may have several labels. None adds up the counts.

    Returns:
        One text for each rare class with images, the rarest first.

    Example:
        >>> from senet.data.balance import rare_classes
        >>> rare_classes({"cat": 40, "dog": 30, "ship": 4, "bird": 26, "frog": 20})
        ['ship: 4 of 120 images']
    """
    total = sum(counts.values())
    rare = sorted((n, name) for name, n in counts.items() if 0 < n * len(counts) * RARE < total)
    return [f"{name}: {n:,} of {images or total:,} images" for n, name in rare]


def report_rare_classes(
    counts: Mapping[str, int], report: Callable[[str], object], *, corrected: bool, images: int | None = None
) -> None:
    """Report rare training classes in one line.

    Args:
        counts: Class to its number of images.
        report: Called with the line.
        corrected: Whether the training corrects the imbalance already.
        images: Number of all images, which may have several labels. None is one class an image.
    """
    rare = rare_classes(counts, images)
    if rare:
        more = f" and {len(rare) - NAMED} more" if len(rare) > NAMED else ""
        sampler = " or --sampler balanced" if images is None else ""
        advice = "" if corrected else f"; try --class-weights balanced{sampler}"
        report(f"rare classes: {', '.join(rare[:NAMED])}{more}{advice}")


def balanced_weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Return weights in inverse proportion to the counts, with a mean of 1 over all images.

    A class without images has weight 1. Source: scikit-learn's `class_weight="balanced"`.

    Example:
        >>> from senet.data.balance import balanced_weights
        >>> balanced_weights({"cat": 30, "dog": 10})
        {'cat': 0.6666666666666666, 'dog': 2.0}
    """
    total, present = sum(counts.values()), sum(n > 0 for n in counts.values())
    return {name: total / (present * n) if n else 1.0 for name, n in counts.items()}


def positive_weights(counts: Mapping[str, int], images: int) -> dict[str, float]:
    """Return a weight of each label's positive images: the number of images without the label for one with it.

    A label that no image has, or every image, has weight 1.

    Source: the documentation of PyTorch's `BCEWithLogitsLoss`, on `pos_weight`.

    Example:
        >>> from senet.data.balance import positive_weights
        >>> positive_weights({"cat": 30, "dog": 10}, images=40)
        {'cat': 0.3333333333333333, 'dog': 3.0}
    """
    return {name: (images - n) / n if 0 < n < images else 1.0 for name, n in counts.items()}


def weights_by_name(weights: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Return the weights in the order of the classes.

    Raises:
        SenetError: A class has no weight, or a weight has no class.
    """
    missing, unknown = [c for c in classes if c not in weights], [c for c in weights if c not in classes]
    if missing or unknown:
        wrong = f"no weight for {missing[0]!r}" if missing else f"{unknown[0]!r} is not a class of the data"
        raise SenetError(f"class weights: {wrong}; the classes are {', '.join(classes[:10])}")
    return {name: float(weights[name]) for name in classes}


def balanced_order(labels: np.ndarray) -> Order:
    """Return an order that takes each class equally often. An epoch has as many images as before.

    A class repeats only after all of its images were taken. The r-th repetition of image i in an epoch of N images has
    the index i + r * N, so that `ImageDataset` augments it differently.

    Args:
        labels: (N,) class numbers.

    Returns:
        From seed and epoch to (N,) int64 indices.

    Example:
        >>> import numpy as np
        >>> from senet.data.balance import balanced_order
        >>> labels = np.array([0, 0, 0, 0, 0, 1])
        >>> drawn = balanced_order(labels)(0, 1) % len(labels)
        >>> np.bincount(labels[drawn])
        array([3, 3])
    """
    length = len(labels)
    members = [torch.from_numpy(np.flatnonzero(labels == label)) for label in np.unique(labels)]

    def order(seed: int, epoch: int) -> torch.Tensor:
        draws = generator("balanced order", seed, epoch)
        share, rest = divmod(length, len(members))
        larger = set(torch.randperm(len(members), generator=draws)[:rest].tolist())
        taken = []
        for number, own in enumerate(members):
            count = share + (number in larger)
            rounds = range(-(-count // len(own)))
            passes = [own[torch.randperm(len(own), generator=draws)] + r * length for r in rounds]
            taken += [torch.cat(passes)[:count]] if passes else []
        indices = torch.cat(taken)
        return indices[torch.randperm(length, generator=draws)]

    return order
