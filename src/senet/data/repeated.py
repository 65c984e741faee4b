"""Repeated augmentation: several differently augmented copies of an image in a batch."""

from __future__ import annotations

import torch

from senet.data.sampler import Order, random_order

__all__ = ["repeated_order"]


def repeated_order(length: int, copies: int, order: Order | None = None) -> Order:
    """Return an order that takes each image several times in a row, and only a part of the images in an epoch.

    An epoch has as many samples as before. The copies of an image have different indices, so that `ImageDataset`
    augments them differently. `TrainBatchSampler` divides them among processes: with at least `copies` processes, each
    copy goes to another one, otherwise the copies of a process share a batch.

    Args:
        length: Number of images N. An index i of `order` stands for the image i % N.
        copies: Copies of an image.
        order: Order of the images, None for a random one.

    Returns:
        From seed and epoch to (N,) int64 indices. The r-th copy of an image has the index i + r * N.

    Example:
        >>> from senet.data.repeated import repeated_order
        >>> drawn = repeated_order(6, copies=3)(0, 1)
        >>> len(drawn), len(set((drawn % 6).tolist())), len(set(drawn.tolist()))
        (6, 2, 6)

    Source: Hoffer et al. 2020 (arXiv 1901.09335), Berman et al. 2019 (arXiv 1902.05509).
    """
    once = order or random_order(length)

    def repeated(seed: int, epoch: int) -> torch.Tensor:
        first = once(seed, epoch)[: -(-length // copies)]
        # An order with repetitions, such as `balanced_order`, numbers them by multiples of the length.
        numbers = (first // length * copies)[:, None] + torch.arange(copies)
        return (first[:, None] % length + numbers * length).flatten()[:length]

    return repeated
