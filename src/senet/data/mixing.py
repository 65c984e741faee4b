"""Mixup and cutmix: training on blends of two images of a batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.transforms import v2

from senet.data.randomness import seeded_rng

__all__ = ["Mixing"]


class Mixing(nn.Module):
    """Blend every image of a batch with another of it; the labels become shares of classes.

    Where both ways are on, each batch goes one of them by the toss of a coin. The draws depend on the seed
    and on the batch's key alone, and leave torch's generators as they were.

    Args:
        classes: Number of classes.
        mixup: Alpha of mixup's Beta distribution; 0 turns mixup off.
        cutmix: The same for cutmix.
        seed: The run's seed.

    Raises:
        ValueError: A negative alpha, or both 0.

    Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix).
    """

    def __init__(self, classes: int, *, mixup: float = 0.0, cutmix: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if min(mixup, cutmix) < 0 or mixup == cutmix == 0:
            raise ValueError(f"mixup={mixup}, cutmix={cutmix}: neither may be negative, nor both 0")
        ways: list[Any] = []
        if mixup:
            ways.append(v2.MixUp(alpha=mixup, num_classes=classes))
        if cutmix:
            ways.append(v2.CutMix(alpha=cutmix, num_classes=classes))
        self.way = v2.RandomChoice(ways)
        self.seed = seed

    def forward(self, images: Tensor, labels: Tensor, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Blend one batch.

        Args:
            images: (N, C, H, W), on any device.
            labels: (N,) int64 class numbers.
            key: What names the batch: `Batch.key`.

        Returns:
            Images as before, and (N, classes) shares that sum to 1.
        """
        with seeded_rng("mixing", self.seed, *key):
            mixed_images, shares = self.way(images, labels)
        return mixed_images, shares
