"""The loss of multi-label classifiers: binary cross entropy of each label, or focal loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LabelLoss"]


class LabelLoss(nn.Module):
    """Binary cross entropy, or focal loss, averaged over images and labels.

    Args:
        classes: Names of the labels.
        weights: Label to the factor of the loss of its positive images, or None for 1.
        gamma: Exponent of the focal loss. 0 is cross entropy.
        label_smoothing: Targets 0 and 1 become `label_smoothing / 2` and `1 - label_smoothing / 2`.

    Example:
        >>> import math, torch
        >>> from senet.tasks.label_loss import LabelLoss
        >>> loss = LabelLoss(["cat", "dog"], weights={"cat": 1.0, "dog": 3.0})
        >>> value = float(loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])))
        >>> math.isclose(value, (1 + 3) / 2 * math.log(2), rel_tol=1e-6)
        True

    Source: Lin et al. 2017 (arXiv 1708.02002), equation 4. Keras's `BinaryCrossentropy` smooths labels like this.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        weights: Mapping[str, float] | None = None,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.weights: Tensor | None
        values = None if weights is None else torch.tensor([weights[name] for name in classes], dtype=torch.float32)
        self.register_buffer("weights", values, persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            logits: (N, classes).
            targets: (N, classes) of 0 and 1, or fractions without focal loss.
        """
        targets = targets.to(logits.dtype)
        if self.label_smoothing:
            targets = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        if not self.gamma:
            return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        missed = -torch.expm1(-losses)  # 1 - p of the right answer
        # A probability of exactly 1 has an infinite slope for gamma < 1.
        losses = losses * missed.clamp_min(torch.finfo(losses.dtype).tiny) ** self.gamma
        return (losses if weights is None else losses * torch.where(targets > 0, weights, 1.0)).mean()
