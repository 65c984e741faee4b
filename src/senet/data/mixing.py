"""Mixup and CutMix: training on blends of two images of a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.randomness import seeded_rng

__all__ = ["Mixing"]


class Mixing(nn.Module):
    """Blend every image of a batch with another one. The labels become fractions of classes.

    With both mixup and CutMix, each batch uses one of them at random. The draws depend on the seed and the batch's key
    alone, and leave torch's generators unchanged.

    Args:
        classes: Number of classes.
        mixup: Alpha of mixup's Beta distribution. 0 turns mixup off.
        cutmix: Alpha of CutMix's Beta distribution. 0 turns CutMix off.
        seed: The run's seed.

    Raises:
        ValueError: An alpha is negative, or both are 0.

    Example:
        >>> import torch
        >>> from senet.data import Mixing
        >>> mixing = Mixing(classes=3, mixup=0.2)
        >>> images, labels = mixing(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), key=(0, 0))
        >>> labels.shape, bool(torch.allclose(labels.sum(1), torch.ones(4)))
        (torch.Size([4, 3]), True)

    Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix).
    """

    def __init__(self, classes: int, *, mixup: float = 0.0, cutmix: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if min(mixup, cutmix) < 0 or mixup == cutmix == 0:
            raise ValueError(f"mixup={mixup}, cutmix={cutmix}: neither may be negative, nor both 0")
        methods: list[Any] = []
        if mixup:
            methods.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix:
            methods.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self.method = v2.RandomChoice(methods)
        self.seed = seed

    def forward(self, images: Tensor, labels: Tensor, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Blend one batch.

        Args:
            images: (N, C, H, W), on any device.
            labels: (N,) int64 class numbers.
            key: Identity of the batch: `Batch.key`.

        Returns:
            Images of the same shape, and (N, classes) fractions that sum to 1.
        """
        with seeded_rng("mixing", self.seed, *key):
            mixed_images, fractions = self.method(images, labels)
        return mixed_images, fractions
