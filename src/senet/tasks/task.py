"""What a training asks of a task; it knows no more of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
import torchmetrics
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet.data import Augmentation, Data
from senet.data.loader import Samples
from senet.preprocessing import Preprocessing
from senet.surgery import Report, plan
from senet.tasks.intervals import Interval

__all__ = ["Metric", "Objective", "RecipeView", "Task"]


@dataclass(frozen=True)
class Metric:
    """A figure by which networks of a task are compared: in 0..1, and higher is better.

    Attributes:
        key: Its name in files: `val_KEY` in `metrics.csv`, KEY in a checkpoint's description.
        title: Its name for people.
    """

    key: str
    title: str


class RecipeView(Protocol):
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
    Batches have `images` (one entry an image), `valid`, `corrupt` and `key`, as `senet.data.Batch`.

    Attributes:
        per_class: Class to its figures, of the last `val_metrics`; empty where the task tells them otherwise.
        intervals: Score to its 95 % interval over images, of the last `val_metrics`; only where it evaluates alone.
    """

    per_class: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    intervals: Mapping[str, Interval] = MappingProxyType({})

    @property
    @abstractmethod
    def train_sums(self) -> tuple[torchmetrics.Metric, ...]:
        """Sums over the training epoch so far. They are part of a training state."""

    @abstractmethod
    def training_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """One training batch: `loss` to go down from, and `right`, how many answers were, where a task counts them."""

    @abstractmethod
    def validation_step(self, model: nn.Module, batch: Any) -> None:
        """Add one validation batch to the sums; what stands in for a corrupt image is left out."""

    @abstractmethod
    def train_metrics(self) -> dict[str, Tensor]:
        """The epoch's training sums by name, `loss` among them; and begin new ones."""

    @abstractmethod
    def val_metrics(self) -> dict[str, Tensor]:
        """The epoch's validation sums by name, the task's scores among them; and begin new ones."""


class Task(ABC):
    """One thing that networks are trained for.

    A task says of itself:
        name: On the command line and in checkpoints.
        metrics: What networks are judged by, the most important first: it chooses the best epoch.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    @abstractmethod
    def check_recipe(self, recipe: RecipeView) -> None:
        """Raise a `SenetError` for what is asked for and has no effect on this task."""

    @abstractmethod
    def check_network(self, model: nn.Module, name: str, preprocessing: Preprocessing, classes: Sequence[str]) -> None:
        """Run one blank image, so that a network that doesn't fit is refused before anything is loaded.

        Raises:
            SenetError: It can't take its own images, or doesn't answer as networks of this task do.
        """

    @abstractmethod
    def datasets(self, data: Data, preprocessing: Preprocessing, recipe: RecipeView) -> tuple[Samples, Samples]:
        """What is trained and what is validated on, for `senet.data.train_loader` and `eval_loader`."""

    @abstractmethod
    def objective(
        self,
        classes: Sequence[str],
        recipe: RecipeView | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        channels_last: bool = True,
        alone: bool = False,
    ) -> Objective:
        """Loss and metrics for a network of these classes.

        Args:
            classes: Their names.
            recipe: None where nothing is learned.
            preprocessing: Of the network, where `datasets` leaves it to the objective to normalise whole batches.
            channels_last: Bring images into that memory format.
            alone: This process evaluates by itself, also after a training of several.
        """

    def eval_batch_size(self, share: int) -> int:
        """Images that are validated at a time, where `share` are trained on at a time."""
        return share

    # Networks: what `senet.training.model_initialization` builds.

    has_heads: ClassVar[bool] = False
    """Whether a network is a backbone with a head."""

    @abstractmethod
    def build(
        self,
        text: str,
        *,
        num_classes: int,
        preprocessing: Preprocessing,
        options: Mapping[str, Any],
        head: Mapping[str, Any],
        pretrained: bool = False,
    ) -> nn.Module:
        """Build what a command line's `--model` names, see `senet.zoo.build_model`.

        Raises:
            SenetError: There is no such network, or it doesn't take these options.
            CheckpointError: The public weights can't be had.
        """

    @abstractmethod
    def defaults(self, text: str) -> tuple[int, Preprocessing]:
        """Classes and path of images of a network, where nobody says otherwise.

        Raises:
            UnknownNameError: There is no such network.
        """

    def adapted(self, preprocessing: Preprocessing) -> Preprocessing:
        """A classifier's path of images, as this task wants it."""
        return preprocessing

    def backbone(self, model: nn.Module) -> nn.Module | None:  # noqa: ARG002
        """The part that a classifier's weights fit; None if there is none."""
        return None

    def example(self, preprocessing: Preprocessing) -> list[Any]:
        """All positional arguments of a network, with one blank image."""
        return [torch.zeros(1, preprocessing.in_channels, *preprocessing.size)]

    def plan(self, model: nn.Module, preprocessing: Preprocessing, **wanted: Any) -> Report:
        """Where `senet.surgery.plan` puts attention, given its other arguments."""
        return plan(model, example_inputs=self.example(preprocessing), **wanted)

    def outputs(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        """All that a network in evaluation mode says of (N, C, H, W) images, to compare it with another.

        Args:
            model: The network.
            images: About as bright as its own.
        """
        return [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]
