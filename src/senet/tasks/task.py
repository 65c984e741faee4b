"""The interface of a task for training and inference."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
import torchmetrics
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from senet.data import Augmentation, Data
from senet.data.loader import Samples
from senet.data.sampler import Key
from senet.errors import UnknownNameError
from senet.preprocessing import Preprocessing
from senet.surgery import Report, plan
from senet.tasks.intervals import Interval

__all__ = ["Drawn", "Metric", "Objective", "RecipeView", "Task"]


@dataclass(frozen=True)
class Metric:
    """A metric by which networks of a task are compared: in 0..1, and higher is better.

    Attributes:
        key: Its name in files: `val_KEY` in `metrics.csv`, KEY in checkpoint metadata.
        title: Its name for people.
    """

    key: str
    title: str

    @property
    def option(self) -> str:
        """Its name on the command line."""
        return self.key.replace("_", "-")


class Drawn(NamedTuple):
    """A drawn image.

    Attributes:
        image: In mode `"RGB"` or `"L"`.
        caption: Its classes in words, one a line, empty if they are drawn.
    """

    image: Image.Image
    caption: str = ""


class RecipeView(Protocol):
    """Fields of a training recipe that a task reads."""

    @property
    def label_smoothing(self) -> float: ...  # noqa: D102

    @property
    def class_weights(self) -> str | Mapping[str, float]: ...  # noqa: D102

    @property
    def sampler(self) -> str: ...  # noqa: D102

    @property
    def loss(self) -> str: ...  # noqa: D102

    @property
    def focal_gamma(self) -> float: ...  # noqa: D102

    @property
    def is_binary(self) -> bool: ...  # noqa: D102

    @property
    def binary_threshold(self) -> float: ...  # noqa: D102

    @property
    def repeated_augmentation(self) -> int: ...  # noqa: D102

    @property
    def metric(self) -> str: ...  # noqa: D102

    @property
    def mixup(self) -> float: ...  # noqa: D102

    @property
    def cutmix(self) -> float: ...  # noqa: D102

    @property
    def augmentation(self) -> Augmentation: ...  # noqa: D102

    @property
    def seed(self) -> int: ...  # noqa: D102


class Objective(nn.Module, ABC):
    """The loss and metrics of a task: a loss to minimise, and the sums of an epoch.

    The training sums are part of its state, so that an interrupted epoch reports all of its images. Batches have
    `images` (one entry for each image), `valid`, `corrupt` and `key`, as `senet.data.Batch`.

    Attributes:
        per_class: Class to its metrics, of the last `val_metrics`, empty if the task has none.
        intervals: Metric to its 95 % interval over images, of the last `val_metrics`, if this process evaluates alone.
        images: Metrics of each image, of the last `val_metrics`, if the task has any and this process evaluates alone.
            `score` in 0..1 orders the images: the worst one has the lowest.
        details: Further JSON-ready results of the last `val_metrics`, if this process evaluates alone.
        thresholds: Smallest probability of each label, of the last `val_metrics`, empty if the task has none.
    """

    per_class: Mapping[str, Mapping[str, float]] = MappingProxyType({})
    intervals: Mapping[str, Interval] = MappingProxyType({})
    images: Sequence[Mapping[str, float | None]] = ()
    details: Mapping[str, Any] = MappingProxyType({})
    thresholds: Sequence[float] = ()

    @property
    @abstractmethod
    def train_sums(self) -> tuple[torchmetrics.Metric, ...]:
        """Sums over the training epoch so far. They are part of a training state."""

    @abstractmethod
    def training_step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Compute one training batch: `loss` to minimise and, if counted, `right`, the number of correct images."""

    @abstractmethod
    def validation_step(self, model: nn.Module, batch: Any) -> None:
        """Add one validation batch to the sums, without the stand-ins of corrupt images."""

    @abstractmethod
    def train_metrics(self) -> dict[str, Tensor]:
        """Return the epoch's training metrics by name, including `loss`, and reset the sums."""

    @abstractmethod
    def val_metrics(self) -> dict[str, Tensor]:
        """Return the epoch's validation metrics by name, and reset the sums."""


class Task(ABC):
    """A task that networks are trained for.

    A subclass defines:
        name: Name on the command line and in checkpoints.
        metrics: Metrics of its networks. The first one chooses the best epoch.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    optional_metrics: ClassVar[tuple[Metric, ...]] = ()
    """Further metrics, measured where a recipe chooses the best epoch by one of them."""
    has_fixed_size: ClassVar[bool] = False
    """Whether all images of a training have one size."""

    def metrics_for(self, name: str) -> tuple[Metric, ...]:
        """Return the metrics with the one that chooses the best epoch in front.

        Args:
            name: The metric's name, such as `"balanced-accuracy"`, or empty for the first of `metrics`.

        Raises:
            UnknownNameError: The task has no such metric.
        """
        every = {metric.option: metric for metric in (*self.metrics, *self.optional_metrics)}
        if name and name not in every:
            raise UnknownNameError(f"metric for {self.name}", name, every)
        first = every[name] if name else self.metrics[0]
        return (first, *(metric for metric in self.metrics if metric is not first))

    @abstractmethod
    def check_recipe(self, recipe: RecipeView) -> None:
        """Raise a `SenetError` for settings without effect on this task."""

    @abstractmethod
    def check_network(self, model: nn.Module, name: str, preprocessing: Preprocessing, classes: Sequence[str]) -> None:
        """Run one blank image, so that an unsuitable network is refused before any data is loaded.

        Raises:
            SenetError: The network rejects its own images, or its output is unlike networks of this task.
        """

    @abstractmethod
    def datasets(self, data: Data, preprocessing: Preprocessing, recipe: RecipeView) -> tuple[Samples, Samples]:
        """Return training and validation samples, for `senet.data.train_loader` and `eval_loader`."""

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
        """Return loss and metrics for a network of these classes.

        Args:
            classes: Names of the classes.
            recipe: Recipe of the training, or None for evaluation.
            preprocessing: Of the network, if the objective normalises whole batches instead of `datasets`.
            channels_last: Whether images are converted to channels_last.
            alone: This process evaluates by itself, also after a training of several.
        """

    def eval_batch_size(self, share: int) -> int:
        """Return the batch size of evaluation for a training batch size."""
        return share

    # Images as a person can see them, for `senet.reports.contact_sheet`.

    @abstractmethod
    def draw_source(self, image: Image.Image, target: Any, classes: Sequence[str]) -> Drawn:
        """Draw an image of a source with its target."""

    @abstractmethod
    def draw_samples(
        self,
        samples: Samples,
        keys: Sequence[Key],
        classes: Sequence[str],
        preprocessing: Preprocessing,
        recipe: RecipeView,
    ) -> list[Drawn]:
        """Draw training samples as one batch of the training.

        Args:
            samples: Training samples of `datasets`.
            keys: Epoch and index of each sample of the batch.
            classes: Names of the classes.
            preprocessing: As for `datasets`.
            recipe: Recipe of the training.
        """

    # Networks, for `senet.training.model_initialization`.

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
        """Build the network of a command line's `--model`, see `senet.zoo.build_model`.

        Raises:
            SenetError: There is no such network, or it doesn't take these options.
            CheckpointError: The public weights are unavailable.
        """

    @abstractmethod
    def defaults(self, text: str) -> tuple[int, Preprocessing]:
        """Return the default number of classes and preprocessing of a network.

        Raises:
            UnknownNameError: There is no such network.
        """

    def adapted(self, preprocessing: Preprocessing) -> Preprocessing:
        """Adapt a classifier's preprocessing to this task."""
        return preprocessing

    def backbone(self, model: nn.Module) -> nn.Module | None:  # noqa: ARG002
        """Return the part that a classifier's weights fit, or None if there is none."""
        return None

    def example(self, preprocessing: Preprocessing) -> list[Any]:
        """Return all positional arguments of a network, with one blank image."""
        return [torch.zeros(1, preprocessing.in_channels, *preprocessing.size)]

    def plan(self, model: nn.Module, preprocessing: Preprocessing, **wanted: Any) -> Report:
        """Plan the attention layers with `senet.surgery.plan`, given its other arguments."""
        return plan(model, example_inputs=self.example(preprocessing), **wanted)

    def outputs(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        """Return all output tensors of a network in evaluation mode, to compare it with another.

        Args:
            model: The network.
            images: (N, C, H, W), about as bright as its own images.
        """
        return [leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor)]
