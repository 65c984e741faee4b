"""Losses of classifiers with class weights: cross entropy, focal loss and binary cross entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ClassLoss"]


class ClassLoss(nn.Module):
    """Cross entropy, focal loss or binary cross entropy, with class weights.

    Args:
        classes: Names of the classes.
        weights: Class to its weight, or None to weigh all alike.
        gamma: Exponent of the focal loss. 0 is cross entropy.
        label_smoothing: Fraction of the target that is spread over the classes.
        binary: Whether to take binary cross entropy, the mean over the classes.
        threshold: Fraction of a class above which its binary target is 1, else 0. With 0 the fraction is the target.

    Example:
        >>> import math, torch
        >>> from senet.tasks.class_loss import ClassLoss
        >>> loss = ClassLoss(["cat", "dog"], weights={"cat": 1.0, "dog": 2.0}, gamma=2.0)
        >>> value = float(loss(torch.zeros(4, 2), torch.tensor([0, 1, 1, 1])))
        >>> math.isclose(value, 1.75 * 0.25 * math.log(2), rel_tol=1e-6)
        True

    Source: Lin et al. 2017 (arXiv 1708.02002), equation 4, with the softmax's probability. Wightman et al. 2021 (arXiv
    2110.00476), section 2.2, for binary cross entropy.
    Differs: PyTorch divides weighted losses by the weights of the batch. Here they are divided by the number of images,
    so that the loss does not depend on the number of devices or micro-batches.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        weights: Mapping[str, float] | None = None,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        binary: bool = False,
        threshold: float = 0.0,
    ) -> None:
        super().__init__()
        self.binary = binary
        self.threshold = threshold
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.weights: Tensor | None
        values = None if weights is None else torch.tensor([weights[name] for name in classes], dtype=torch.float32)
        self.register_buffer("weights", values, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            logits: (N, classes).
            labels: (N,) class numbers, or (N, classes) fractions without focal loss.
        """
        if self.binary:
            return self._binary(logits, labels)
        if self.weights is None and not self.gamma:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        losses = F.cross_entropy(logits, labels, weight=weights, label_smoothing=self.label_smoothing, reduction="none")
        if self.gamma:
            losses = losses * self._focus(logits, labels)
        return losses.mean()

    def _binary(self, logits: Tensor, labels: Tensor) -> Tensor:
        classes = logits.shape[1]
        fractions = labels if labels.ndim == 2 else F.one_hot(labels, classes)
        fractions = fractions.to(logits.dtype)
        targets = fractions * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.threshold:
            targets = (targets > self.threshold).to(logits.dtype)
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
        if self.weights is not None:
            losses = losses * (fractions @ self.weights.to(logits.dtype))
        return losses.mean()

    def _focus(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N,) (1 - p) ** gamma of the true class."""
        p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
        # A probability of exactly 1 has an infinite slope for gamma < 1.
        return (1 - p).clamp_min(torch.finfo(p.dtype).tiny) ** self.gamma
