"""Classification: cross entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
import torch.nn.functional as F
import torchmetrics
from PIL import Image
from torch import Tensor, nn

from senet.console import printable
from senet.data import Batch, Data, ImageDataset, Mixing, Normalise, eval_transform, train_transform
from senet.data.balance import balanced_order
from senet.data.loader import Samples
from senet.data.repeated import repeated_order
from senet.data.sampler import Key
from senet.data.transforms import as_image
from senet.errors import SenetError
from senet.preprocessing import Preprocessing
from senet.tasks.class_loss import ClassLoss
from senet.tasks.class_metrics import CLASS_METRICS, ClassScores
from senet.tasks.distillation import Distillation
from senet.tasks.label_loss import LabelLoss
from senet.tasks.logits import logits_of
from senet.tasks.means import Mean
from senet.tasks.task import Drawn, Metric, Objective, RecipeView, Task
from senet.zoo import build_model, model_defaults

__all__ = ["ClassificationTask", "ClassifierObjective", "ClassifierTask", "run_blank"]


class ClassifierObjective(Objective):
    """The loss of a network with one logit for each class, with the recipe's label smoothing and image mixing.

    A subclass adds the metrics.

    Args:
        classes: Names of the classes.
        recipe: Recipe of the training, or None for evaluation.
        criterion: Makes the loss from `classes`, `weights`, `gamma` and `label_smoothing`.
        preprocessing: Of the network, to normalise uint8 images. None for images that are normalised already.
        channels_last: Whether images are converted to channels_last.

    Attributes:
        distillation: The loss of a teacher's predictions, None without a teacher.
    """

    def __init__(
        self,
        classes: Sequence[str],
        recipe: RecipeView | None,
        *,
        criterion: Callable[..., ClassLoss | LabelLoss],
        preprocessing: Preprocessing | None = None,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes = len(classes)
        self.normalise = Normalise(preprocessing) if preprocessing else nn.Identity()
        weights = recipe.class_weights if recipe else ""
        self.criterion = criterion(
            classes,
            weights=None if isinstance(weights, str) else weights,
            gamma=recipe.focal_gamma if recipe else 0.0,
            label_smoothing=recipe.label_smoothing if recipe else 0.0,
        )
        self.distillation: Distillation | None = None
        self.mixing: Mixing | None = None
        if recipe and (recipe.mixup or recipe.cutmix):
            self.mixing = Mixing(num_classes, mixup=recipe.mixup, cutmix=recipe.cutmix, seed=recipe.seed)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def _loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of one training batch, and the logits."""
        images, labels = self.inputs(batch)
        logits = self._logits(model, images)
        loss: Tensor = self.criterion(logits, labels)
        if self.distillation is not None:
            loss = self.distillation(images, logits, loss)
        return loss, logits.detach()

    def inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return normalised images and labels, or blended images and (N, classes) fractions."""
        images, labels = self.normalise(batch.images), batch.labels
        if self.mixing is not None:
            images, labels = self.mixing(images, labels, batch.key)
        return images, labels

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        output = model(images.contiguous(memory_format=self.memory_format))
        return logits_of(output, self.num_classes, name=type(model).__name__).float()


@final
class ClassificationObjective(ClassifierObjective):
    """Accuracies over images, and the metrics over classes where the recipe chooses the best epoch by one of them.

    Args:
        classes: Names of the classes.
        recipe: Recipe of the training, or None for evaluation.
        **options: `preprocessing` and `channels_last` of `ClassifierObjective`.
    """

    def __init__(self, classes: Sequence[str], recipe: RecipeView | None, **options: Any) -> None:
        criterion = partial(
            ClassLoss,
            binary=recipe is not None and recipe.is_binary,
            threshold=recipe.binary_threshold if recipe else 0.0,
        )
        super().__init__(classes, recipe, criterion=criterion, **options)
        self.train_loss, self.train_top1 = Mean(), Mean()
        self.val_loss, self.val_top1, self.val_top5 = Mean(), Mean(), Mean()
        wanted = recipe is not None and any(metric.option == recipe.metric for metric in CLASS_METRICS)
        self.val_scores = ClassScores(self.num_classes) if wanted else None

    @property
    def train_sums(self) -> tuple[torchmetrics.Metric, ...]:
        """Loss and top-1 accuracy."""
        return self.train_loss, self.train_top1

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of one batch and the number of correct images."""
        loss, logits = self._loss(model, batch)
        self.train_loss.update(loss.detach(), weight=len(logits))
        right = _right(logits, batch.labels)
        self.train_top1.update(right)
        return {"loss": loss, "right": right.sum()}

    def validation_step(self, model: nn.Module, batch: Batch) -> None:
        """Add one batch to the validation sums."""
        logits = self._logits(model, self.normalise(batch.images))
        self.val_loss.update(F.cross_entropy(logits, batch.labels, reduction="none"), weight=batch.valid)
        self.val_top1.update(_right(logits, batch.labels), weight=batch.valid)
        if self.num_classes > 5:
            self.val_top5.update(_right(logits, batch.labels, 5), weight=batch.valid)
        if self.val_scores is not None:
            self.val_scores.add(logits, batch.labels, batch.valid)

    def train_metrics(self) -> dict[str, Tensor]:
        """Return loss and top-1 accuracy."""
        values = {"loss": self.train_loss.compute(), "top1": self.train_top1.compute()}
        self.train_loss.reset()
        self.train_top1.reset()
        return values

    def val_metrics(self) -> dict[str, Tensor]:
        """Return loss, top-1 accuracy and, with more than five classes, top-5 accuracy.

        A recipe that chooses the best epoch by a metric over classes adds those metrics.
        """
        means = {"loss": self.val_loss, "top1": self.val_top1}
        if self.num_classes > 5:
            means["top5"] = self.val_top5
        values = {name: mean.compute() for name, mean in means.items()}
        if self.val_scores is not None:
            values |= self.val_scores.values()
            self.val_scores.reset()
        for mean in means.values():
            mean.reset()
        return values


def _right(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """(N,) whether the label is among the k likeliest classes."""
    return logits.argmax(1) == labels if k == 1 else (logits.topk(k, 1).indices == labels[:, None]).any(1)


def _described(label: int | Tensor, classes: Sequence[str]) -> str:
    """Describe a class number, or (classes,) fractions: the largest first, one a line, and whole labels by name."""
    if not isinstance(label, Tensor):
        return printable(classes[label])
    there = [number for number in label.argsort(descending=True, stable=True).tolist() if label[number] > 0]
    return "\n".join(
        printable(classes[number]) if label[number] == 1 else f"{label[number]:.0%} {printable(classes[number])}"
        for number in there
    )


class ClassifierTask(Task):
    """(N, C, H, W) -> logits (N, classes), alone or among other outputs: see `senet.tasks.logits`."""

    has_fixed_size = True

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes, (N, classes)."""

    def check_network(self, model: nn.Module, name: str, preprocessing: Preprocessing, classes: Sequence[str]) -> None:
        """Run one blank image.

        Raises:
            SenetError: The network rejects its own images, or doesn't return one logit for each class.
        """
        logits = logits_of(run_blank(model, name, preprocessing), len(classes), name=name)
        if logits.shape != (1, len(classes)):
            raise SenetError(
                f"{name} returns {tuple(logits.shape)} for one image instead of (1, {len(classes)}); the data has "
                f"{len(classes)} classes"
            )

    def datasets(
        self, data: Data, preprocessing: Preprocessing, recipe: RecipeView
    ) -> tuple[ImageDataset, ImageDataset]:
        """Return augmented training images and whole validation images."""
        order = balanced_order(data.train.labels) if recipe.sampler == "balanced" else None
        if recipe.repeated_augmentation > 1:
            source_order = order or getattr(data.train, "order", None)
            order = repeated_order(len(data.train), recipe.repeated_augmentation, source_order)
        transform = train_transform(preprocessing, recipe.augmentation)
        train = ImageDataset(data.train, transform, seed=recipe.seed, order=order)
        return train, ImageDataset(data.val, eval_transform(preprocessing))

    def draw_source(self, image: Image.Image, target: Any, classes: Sequence[str]) -> Drawn:
        """Return the image with the name of its class, or of its labels."""
        return Drawn(image, _described(target, classes))

    def draw_samples(
        self,
        samples: Samples,
        keys: Sequence[Key],
        classes: Sequence[str],
        preprocessing: Preprocessing,
        recipe: RecipeView,
    ) -> list[Drawn]:
        """Draw the images as the network receives them. Blended images have the fractions of their classes."""
        objective = self.objective(classes, recipe, preprocessing=preprocessing)
        assert isinstance(objective, ClassifierObjective)
        images, labels = objective.inputs(samples.collate([samples[key] for key in keys]))
        return [
            Drawn(as_image(image, preprocessing), _described(label, classes) if label.ndim else "")
            for image, label in zip(images, labels, strict=True)
        ]

    def eval_batch_size(self, share: int) -> int:
        """Return a larger batch size, since evaluation stores no gradients."""
        return max(share, 64)

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
        """Build the network with `senet.zoo.build_model`.

        Raises:
            SenetError: There is no such network, it doesn't take these options, or a head is given.
            CheckpointError: The public weights are unavailable.
        """
        if head:
            raise SenetError("--head is for --task detection and segmentation; a classifier has its own")
        return build_model(
            text,
            num_classes=num_classes,
            in_channels=preprocessing.in_channels,
            options=options,
            pretrained=pretrained,
        )

    def defaults(self, text: str) -> tuple[int, Preprocessing]:
        """Return the defaults of `senet.zoo.model_defaults`."""
        return model_defaults(text)


@final
class ClassificationTask(ClassifierTask):
    """One class for each image."""

    name = "classification"
    metrics = (Metric("top1", "top-1"), Metric("top5", "top-5"))
    optional_metrics = CLASS_METRICS

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax: the probabilities of an image sum to 1."""
        return logits.softmax(1)

    def check_recipe(self, recipe: RecipeView) -> None:
        """Raise a `SenetError` for an unknown metric. All other fields have an effect."""
        self.metrics_for(recipe.metric)

    def objective(
        self,
        classes: Sequence[str],
        recipe: RecipeView | None = None,
        *,
        preprocessing: Preprocessing | None = None,
        channels_last: bool = True,
        alone: bool = False,  # noqa: ARG002 - `senet.inference.evaluate` reports more than these sums
    ) -> Objective:
        """Return the loss and accuracies. Class weights must be known: see `with_class_weights`."""
        return ClassificationObjective(classes, recipe, preprocessing=preprocessing, channels_last=channels_last)


def run_blank(model: nn.Module, name: str, preprocessing: Preprocessing) -> object:
    """Run one blank image, (1, C, H, W), in evaluation mode.

    Raises:
        SenetError: The network rejects it, or has no parameters.
    """
    like = next(model.parameters(), None)
    if like is None:
        raise SenetError(f"{name} has no parameters to train")
    image = torch.zeros(1, preprocessing.in_channels, *preprocessing.size, dtype=like.dtype, device=like.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output: object = model(image)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SenetError(f"{name} can't take an image of shape {tuple(image.shape[1:])}: {reason}") from error
    finally:
        model.train(training)
    return output
