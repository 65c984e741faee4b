"""What a training asks of a task; it knows no more of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from senet.data import Augmentation, Data
from senet.data.loader import Samples
from senet.preprocessing import Preprocessing

__all__ = ["Objective", "Rules", "Score", "Task"]


@dataclass(frozen=True)
class Score:
    """A figure by which networks of a task are compared: in 0..1, and higher is better.

    Attributes:
        key: Its name in files: `val_KEY` in `metrics.csv`, KEY in a checkpoint's description.
        title: Its name for people.
    """

    key: str
    title: str


class Rules(Protocol):
    """What a task reads of a training's recipe."""

    @property
    def label_smoothing(self) -> float: ...  # noqa: D102

    @property
    def mixup(self) -> float: ...  # noqa: D102

    @property
    def cutmix(self) -> float: ...  # noqa: D102

    @property
    def augmentation(self) -> Augmentation: ...  # noqa: D102

    @property
    def seed(self) -> int: ...  # noqa: D102


class Objective(nn.Module, ABC):
    """What a network of this task shall do: a loss to learn from, and the sums that an epoch is judged by.

    The training's sums are part of its state, so that an epoch that was interrupted reports the whole of it.
    Batches have `images` (one entry an image), `valid`, `broken` and `key`, as `senet.data.Batch`.
    """

    @abstractmethod
    def learn(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """One training batch: `loss` to go down from, and `right`, how many answers were, where a task counts them."""

    @abstractmethod
    def judge(self, model: nn.Module, batch: Any) -> None:
        """Add one validation batch to the sums; what stands in for a broken image is left out."""

    @abstractmethod
    def learned(self) -> dict[str, Tensor]:
        """The epoch's training sums by name, `loss` among them; and begin new ones."""

    @abstractmethod
    def judged(self) -> dict[str, Tensor]:
        """The epoch's validation sums by name, the task's scores among them; and begin new ones."""


class Task(ABC):
    """One thing that networks are trained for.

    A task says of itself:
        name: On the command line and in checkpoints.
        scores: What networks are judged by, the most important first: it chooses the best epoch.
    """

    name: ClassVar[str]
    scores: ClassVar[tuple[Score, ...]]

    @abstractmethod
    def check_rules(self, recipe: Rules) -> None:
        """Raise a `SenetError` for what is asked for and has no effect on this task."""

    @abstractmethod
    def check_network(self, model: nn.Module, name: str, preprocessing: Preprocessing, classes: Sequence[str]) -> None:
        """Run one blank image, so that a network that doesn't fit is refused before anything is loaded.

        Raises:
            SenetError: It can't take its own images, or doesn't answer as networks of this task do.
        """

    @abstractmethod
    def datasets(self, data: Data, preprocessing: Preprocessing, recipe: Rules) -> tuple[Samples, Samples]:
        """What is trained and what is validated on, for `senet.data.train_loader` and `eval_loader`."""

    @abstractmethod
    def objective(self, classes: Sequence[str], recipe: Rules, *, channels_last: bool = True) -> Objective:
        """Loss and metrics for a network of these classes."""

    def eval_batch_size(self, share: int) -> int:
        """Images that are validated at a time, where `share` are trained on at a time."""
        return share
