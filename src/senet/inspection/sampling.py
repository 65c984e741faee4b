"""Keeping a few images of a single pass over the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from senet.errors import UnknownNameError

__all__ = ["ImageSampler", "evenly", "indices_of"]


class ImageSampler:
    """Keeps the first images of some classes, the same number of each.

    Args:
        classes: Number of classes.
        chosen: Classes to take first.
        count: Largest number of images.
    """

    def __init__(self, classes: int, chosen: Sequence[int], count: int) -> None:
        others = [k for k in evenly(classes, count) if k not in chosen]
        self.order = [*chosen, *others][: max(count, len(chosen))]
        self.each = -(-count // max(1, len(self.order)))
        self.count = count
        self._kept: dict[int, list[Tensor]] = {k: [] for k in self.order}

    def offer(self, images: Tensor, labels: Tensor) -> None:
        """Keep the images that are still needed, on the CPU."""
        for image, label in zip(images, labels.tolist(), strict=True):
            kept = self._kept.get(label)
            if kept is not None and len(kept) < self.each:
                kept.append(image.detach().cpu().clone())

    def images(self, count: int) -> tuple[Tensor, list[int]]:
        """Return up to `count` images (n, C, H, W) and their classes: the first of each class, then the second, ..."""
        turns = [(turn, k) for turn in range(self.each) for k in self.order if turn < len(self._kept[k])]
        turns = turns[: min(count, self.count)]
        return torch.stack([self._kept[k][turn] for turn, k in turns]), [k for _, k in turns]


def evenly(whole: int, count: int) -> list[int]:
    """Return at most `count` evenly spaced numbers below `whole`, including the first and the last."""
    if count >= whole:
        return list(range(whole))
    return sorted({int(i) for i in np.linspace(0, whole - 1, count).round()})


def indices_of(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the positions of these names among the classes.

    Raises:
        UnknownNameError: There is no such class.
    """
    for name in names:
        if name not in classes:
            raise UnknownNameError("class", name, classes)
    return [classes.index(name) for name in names]
