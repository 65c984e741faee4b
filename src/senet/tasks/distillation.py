"""Knowledge distillation: a classifier learns the predictions of a trained one, its teacher."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senet.errors import SenetError
from senet.preprocessing import Preprocessing
from senet.tasks.logits import logits_of

__all__ = ["Distillation", "Renormalise", "distillation_loss"]

COLOURS = ("RGB", "BGR")


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean loss of a student's logits for those of its teacher.

    Args:
        student: (N, classes) logits.
        teacher: (N, classes) logits.
        temperature: Divides both logits in the Kullback-Leibler divergence, which is multiplied by its square. 0 is the
            cross entropy for the teacher's likeliest class (hard distillation).

    Example:
        >>> import torch
        >>> from senet.tasks.distillation import distillation_loss
        >>> logits = torch.tensor([[2.0, 0.0, -1.0]])
        >>> float(distillation_loss(logits, logits, temperature=4.0))
        0.0

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2. Touvron et al. 2021 (arXiv 2012.12877), section 4, for
    hard distillation.
    """
    if not temperature:
        return F.cross_entropy(student, teacher.argmax(1))
    own, theirs = ((logits / temperature).log_softmax(1) for logits in (student, teacher))
    return F.kl_div(own, theirs, log_target=True, reduction="batchmean") * temperature**2


@final
class Distillation:
    """A teacher for the training of a classifier.

    It is no module, so the teacher is no part of the student: neither of its weights nor of its training states. It
    follows the images to their device.

    Args:
        teacher: (N, C, H, W) -> logits.
        order: (classes,) the teacher's output for each class of the student.
        images: Preprocessing of the teacher.
        student_images: Preprocessing of the student.
        alpha: Weight of the teacher's loss. The loss of the labels has the rest.
        temperature: As in `distillation_loss`.
        name: Name of the teacher, for messages.

    Raises:
        SenetError: The teacher takes images of other channels.
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        order: Tensor,
        images: Preprocessing,
        student_images: Preprocessing,
        alpha: float,
        temperature: float,
        name: str,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.order = order
        self.prepare = Renormalise(student_images, images, name=name)
        self.alpha, self.temperature, self.name = alpha, temperature, name

    def __call__(self, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """Return the whole loss of a batch.

        Args:
            images: (N, C, H, W) augmented and mixed, normalised for the student.
            logits: (N, classes) of the student.
            loss: Mean loss for the labels.
        """
        return (1 - self.alpha) * loss + self.alpha * distillation_loss(logits, self.logits(images), self.temperature)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(N, C, H, W) normalised for the student -> (N, classes), the teacher's logits in the student's order."""
        if self.order.device != images.device:
            self.order = self.order.to(images.device)
            self.teacher.to(images.device)
            self.prepare.to(images.device)
        output = self.teacher(self.prepare(images))
        return logits_of(output, len(self.order), name=self.name).float()[:, self.order]


@final
class Renormalise(nn.Module):
    """Images that are normalised for one network -> images for another one: its statistics, channel order and size.

    A mix of two images stays the same mix, since each step is linear.

    Args:
        here: Preprocessing of the given images.
        there: Preprocessing of the other network.
        name: Name of the other network, for messages.

    Raises:
        SenetError: The other network takes other channels.

    Example:
        >>> import torch
        >>> from senet.preprocessing import CIFAR, IMAGENET
        >>> from senet.tasks.distillation import Renormalise
        >>> Renormalise(CIFAR, IMAGENET, name="resnet50")(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3, 224, 224])
    """

    def __init__(self, here: Preprocessing, there: Preprocessing, *, name: str) -> None:
        super().__init__()
        alike = here.channel_order == there.channel_order and here.in_channels == there.in_channels
        if not alike and not (here.channel_order in COLOURS and there.channel_order in COLOURS):
            raise SenetError(
                f"the teacher {name} takes {there.in_channels} channels ({there.channel_order}), the student "
                f"{here.in_channels} ({here.channel_order}); use a teacher of the student's channels"
            )
        self.reverse = here.channel_order != there.channel_order
        self.size = None if here.size == there.size else there.size
        (mean, std), (new_mean, new_std) = (_statistics(p) for p in (here, there))
        if self.reverse:
            mean, std = mean.flip(0), std.flip(0)
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", (std / new_std).float().view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - new_mean) / new_std).float().view(-1, 1, 1), persistent=False)
        self.same = torch.equal(mean, new_mean) and torch.equal(std, new_std)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        if self.reverse:
            images = images.flip(1)
        if not self.same:
            images = images * self.scale + self.shift
        if self.size is not None:
            images = F.interpolate(images, size=self.size, mode="bilinear", align_corners=False, antialias=True)
        return images


def _statistics(preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """(C,) mean and deviation of values in 0..1, in float64."""
    values = (torch.tensor(v, dtype=torch.float64) for v in (preprocessing.mean, preprocessing.std))
    mean, std = (value / preprocessing.value_range for value in values)
    return mean, std
