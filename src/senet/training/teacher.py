"""The teacher of a training, as requested on the command line and saved with the run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from senet.errors import CheckpointError, SenetError
from senet.preprocessing import Preprocessing
from senet.tasks import CLASSIFICATION, task_named
from senet.training.model_initialization import ModelInitialization

if TYPE_CHECKING:
    from torch import Tensor, nn

    from senet.tasks.distillation import Distillation

__all__ = ["Teacher"]


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A trained classifier whose predictions another one learns.

    The loss is (1 - alpha) times the loss of the labels, plus alpha times the loss of the teacher's predictions.

    Attributes:
        network: The network and its weights.
        alpha: Weight of the teacher's loss, over 0 and at most 1.
        temperature: Temperature of the predictions. 0 takes the teacher's likeliest class.
        digest: SHA-256 of the weights when the run started, empty before.

    Raises:
        SenetError: A value is out of range, or the network is no classifier.

    Example:
        >>> from senet.training import ModelInitialization, Teacher
        >>> teacher = Teacher(network=ModelInitialization.from_pretrained("torchvision:resnet50", {}), temperature=2.0)
        >>> teacher.alpha
        0.9

    Source: Hinton et al. 2015 (arXiv 1503.02531), section 2. The defaults are those of Tian et al. 2020 (arXiv
    1910.10699) for this loss.
    """

    network: ModelInitialization
    alpha: float = 0.9
    temperature: float = 4.0
    digest: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise SenetError(f"teacher_alpha={self.alpha} must be over 0 and at most 1")
        if not 0 <= self.temperature < math.inf:
            raise SenetError(f"teacher_temperature={self.temperature} must be at least 0")
        if self.network.task != CLASSIFICATION:
            raise SenetError(f"the teacher {self.network.model} is for {self.network.task}, not for {CLASSIFICATION}")

    def build(self, classes: Sequence[str], student_images: Preprocessing) -> tuple[Distillation, Teacher]:
        """Build the network with its weights.

        Args:
            classes: Classes of the student.
            student_images: Preprocessing of the student.

        Returns:
            The loss for a training, and this with the digest of the weights.

        Raises:
            SenetError: The teacher knows other classes, or takes images of other channels.
            CheckpointError: The weights can't be read, or have changed since the run started.
        """
        import torch

        from senet.tasks.distillation import Distillation

        order = self._order(classes)
        own, images = self.network.classes(), self.network.preprocessing_for()
        with torch.random.fork_rng(devices=[]):
            model = self.network.build(own, images).model
        task_named(CLASSIFICATION).check_network(model, self.network.model, images, own)
        digest = _digest(model)
        if self.digest not in ("", digest):
            raise CheckpointError(
                f"the teacher {self.name} has changed since the run started; restore it, or start a new run in another "
                "--out"
            )
        distillation = Distillation(
            model,
            order=order,
            images=images,
            student_images=student_images,
            alpha=self.alpha,
            temperature=self.temperature,
            name=self.name,
        )
        return distillation, replace(self, digest=digest)

    @property
    def name(self) -> str:
        """The network's name, with the file of its weights where they are in one."""
        weights = self.network.weights
        return self.network.model if weights == "pretrained" else f"{self.network.model} in {weights}"

    def _order(self, classes: Sequence[str]) -> Tensor:
        """(classes,) output of the teacher for each class of the student.

        Numbers mean unknown names. They match any classes of the same number.
        """
        import torch

        from senet.data.split import portable

        names = self.network.classes()
        own, wanted = list(map(portable, names)), list(map(portable, classes))
        if len(own) != len(wanted):
            raise SenetError(
                f"the teacher {self.name} has {len(own):,} classes, and the data has {len(wanted):,}; use a teacher "
                "of the same classes"
            )
        unknown = [name for name, key in zip(classes, wanted, strict=True) if key not in own]
        if unknown and names != tuple(map(str, range(len(names)))):
            raise SenetError(
                f"the teacher {self.name} doesn't know {unknown[0]!r}; its classes are {', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}; use a teacher of the same classes"
            )
        return torch.tensor(range(len(own)) if unknown else [own.index(key) for key in wanted])

    def record(self) -> dict[str, Any]:
        """Return the teacher's identity and its options, JSON-ready, for checkpoints and training states."""
        return {
            "model": self.network.model,
            "sha256": self.digest,
            "alpha": self.alpha,
            "temperature": self.temperature,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary for `from_dict`."""
        return {
            "network": self.network.to_dict(),
            "alpha": self.alpha,
            "temperature": self.temperature,
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Teacher:
        """Build it from the result of `to_dict`."""
        return cls(**{**values, "network": ModelInitialization.from_dict(values["network"])})


def _digest(model: nn.Module) -> str:
    """Return the SHA-256 of the weights, from any source."""
    import torch

    digest = hashlib.sha256()
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
