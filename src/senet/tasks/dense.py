"""Shared parts of detection and segmentation: a head on a backbone, or a network of another library."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from senet.data import Data, DenseDataset, DenseSource
from senet.data.dense import Target, aspect_groups, sizes_of
from senet.data.joint_transform import JointTransform, check_augmentation, resized_to
from senet.data.loader import Samples
from senet.data.sampler import Key
from senet.data.transforms import as_image
from senet.errors import SenetError
from senet.models import Backbone, ConvNet
from senet.preprocessing import Preprocessing
from senet.surgery import InsertionPoint, Report, apply_insertion_points, plan
from senet.surgery.module_patterns import Where
from senet.tasks.head import HeadSpec, head_from_dict
from senet.tasks.library import from_torchvision, known_in_torchvision
from senet.tasks.task import Drawn, RecipeView, Task
from senet.zoo import INSERTED, build_model, is_code, model_defaults

__all__ = ["DenseTask", "by_shape"]

DRAWN = 320
"""Longer edge of a drawn sample, in pixels."""


class DenseTask(Task):
    """A task with predictions at positions in the image.

    A subclass defines, in addition to `Task`:
        heads: Name to head.
        default_head: Name of the default head.
        default_size: Default height and width of images.
        crops: Kinds of crops for training images.
        unread: Fields of a recipe that must be zero, since they have no effect.
    """

    heads: ClassVar[Mapping[str, type[HeadSpec]]]
    default_head: ClassVar[str]
    default_size: ClassVar[tuple[int, int]]
    crops: ClassVar[tuple[str, ...]]
    unread: ClassVar[tuple[str, ...]]
    has_heads = True

    @abstractmethod
    def transform(self, preprocessing: Preprocessing, recipe: RecipeView | None) -> JointTransform:
        """Return the transform of images and targets. `recipe` None is evaluation."""

    def check_recipe(self, recipe: RecipeView) -> None:
        """Raise a `SenetError` for settings without effect on this task."""
        check_augmentation(recipe.augmentation, self.crops, self.name)
        for name in self.unread:
            if getattr(recipe, name):
                raise SenetError(f"{name}={getattr(recipe, name)} has no effect on {self.name}; use 0")
        if recipe.repeated_augmentation > 1:
            raise SenetError(
                f"repeated_augmentation={recipe.repeated_augmentation} has no effect on {self.name}; use 1"
            )
        self.metrics_for(recipe.metric)
        for name, off in (("class_weights", ""), ("sampler", "random"), ("loss", "cross-entropy")):
            if getattr(recipe, name) != off:
                raise SenetError(f"{name} is for classification; {self.name} has its own")

    def datasets(
        self, data: Data, preprocessing: Preprocessing, recipe: RecipeView
    ) -> tuple[DenseDataset, DenseDataset]:
        """Return augmented training images, batched by shape, and whole validation images."""
        train: DenseSource = data.train  # type: ignore[assignment]
        return (
            DenseDataset(
                train,
                self.transform(preprocessing, recipe),
                seed=recipe.seed,
                groups=aspect_groups(sizes_of(train)) if self.groups_by_shape(recipe) else None,
            ),
            self.evaluated(data.val, preprocessing),  # type: ignore[arg-type]
        )

    def groups_by_shape(self, recipe: RecipeView) -> bool:
        """Whether training images keep their own shapes, so that similar shapes should share a batch."""
        return recipe.augmentation.crop != "scale-jitter"

    def evaluated(self, source: DenseSource, preprocessing: Preprocessing, *, corrupt: str = "skip") -> DenseDataset:
        """Return whole images with their targets."""
        return DenseDataset(source, self.transform(preprocessing, None), corrupt=corrupt)

    # Predictions.

    @abstractmethod
    def predictions(self, model: nn.Module, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Any]:
        """Predict for transformed images, at the height and width of the original images."""

    @abstractmethod
    def draw(
        self, image: Image.Image, prediction: Any, classes: Sequence[str], *, score_threshold: float = 0.5
    ) -> Image.Image:
        """Draw a prediction over the image. Boxes with a score below `score_threshold` are left out."""

    @abstractmethod
    def as_prediction(self, target: Mapping[str, Tensor]) -> Any:
        """Convert an image's annotation to the form of `predictions`, for `draw`."""

    # Images as a person can see them.

    def shown(self, pixels: Tensor, preprocessing: Preprocessing) -> Image.Image:
        """Return an image of `transform`."""
        return as_image(pixels, preprocessing)

    def draw_source(self, image: Image.Image, target: Target, classes: Sequence[str]) -> Drawn:
        """Draw an image with its annotation."""
        small, resized = resized_to(image, target, DRAWN)
        return Drawn(self.draw(small, self.as_prediction(resized), classes))

    def draw_samples(
        self,
        samples: Samples,
        keys: Sequence[Key],
        classes: Sequence[str],
        preprocessing: Preprocessing,
        recipe: RecipeView,  # noqa: ARG002 - no image depends on the others of its batch
    ) -> list[Drawn]:
        """Draw the images with their annotations."""
        found = [samples[key] for key in keys]
        return [self.draw_source(self.shown(it.image, preprocessing), it.target, classes) for it in found]

    # Networks.

    def adapted(self, preprocessing: Preprocessing) -> Preprocessing:
        """Adapt a classifier's preprocessing to its use as a backbone: the whole image at this task's size."""
        return replace(preprocessing, size=self.default_size, crop_fraction=1.0)

    def defaults(self, text: str) -> tuple[int, Preprocessing]:
        """Return the default number of classes and preprocessing of a network."""
        if is_code(text):
            return 1, self.adapted(Preprocessing())
        if ":" in text:
            return known_in_torchvision(text, self.name), self.adapted(Preprocessing())
        return model_defaults(text)[0], self.adapted(model_defaults(text)[1])

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
        """Build the network of `--model` and `--head`, and insert the recorded attention layers.

        Args:
            text: A name of `list_models()` for a backbone, else `torchvision:NAME` or `module:function`.
            num_classes: Number of classes.
            preprocessing: Preprocessing of the images.
            options: Options of this package's networks.
            head: A dictionary of `HeadSpec.to_dict`, and `INSERTED` for any network.
            pretrained: Whether to load public weights, of the backbone or of the whole network.

        Raises:
            SenetError: There is no such network or head, or it doesn't take these options.
            CheckpointError: The public weights are unavailable.
        """
        head = dict(head)
        points = [InsertionPoint.from_dict(values) for values in head.pop(INSERTED, ())]
        if ":" in text and head:
            raise SenetError(f"--head is for backbones of `senet list`; {text} is a whole network with its own head")
        if ":" not in text:
            network = build_model(text, num_classes=0, in_channels=preprocessing.in_channels, options=options,
                                  pretrained=pretrained)  # fmt: skip
            assert isinstance(network, ConvNet)
            spec = head_from_dict(head or {"kind": self.default_head}, self.heads)
            model = spec.build(network, num_classes, preprocessing)
        elif options:
            raise SenetError(f"{next(iter(options))} is an option of this package's networks; {text} isn't one")
        elif is_code(text):
            model = build_model(text, num_classes=num_classes, in_channels=preprocessing.in_channels)
        else:
            model = from_torchvision(text, self.name, num_classes, preprocessing, pretrained=pretrained)
        apply_insertion_points(model, points)
        return model

    def backbone(self, model: nn.Module) -> Backbone | None:
        """Return this package's backbone inside the network, or None in a network of another library."""
        return next((module for module in model.modules() if isinstance(module, Backbone)), None)

    def plan(self, model: nn.Module, preprocessing: Preprocessing, *, where: Where = "auto", **wanted: Any) -> Report:
        """Plan the attention layers: in the backbone if it can be found, else, or with `where`, anywhere."""
        root = self._body(model) if where == "auto" else ""
        if not root:
            return super().plan(model, preprocessing, where=where, **wanted)
        image = torch.zeros(1, preprocessing.in_channels, *preprocessing.size)
        return plan(model.get_submodule(root), example_inputs=[image], where=where, **wanted).within(root)

    def _body(self, model: nn.Module) -> str:
        """Return the path of the backbone, empty if there is none."""
        modules = dict(model.named_modules())
        own = next((path for path, module in modules.items() if isinstance(module, Backbone)), None)
        return own or next((path for path in ("backbone.body", "backbone") if path in modules), "")


def by_shape(images: Sequence[Tensor]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Group images by shape, with their positions.

    Padding images to a common size would make a prediction depend on the other images: attention averages over the
    border.
    """
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        alike[image.shape].append(number)
    for numbers in alike.values():
        yield numbers, [images[number] for number in numbers]
