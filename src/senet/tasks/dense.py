"""What detection and segmentation share: a head on a backbone, or another library's network as it is."""

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
from senet.data.dense import aspect_groups, sizes_of
from senet.data.joint_transform import JointTransform, check_augmentation
from senet.errors import SenetError
from senet.models import Backbone, ConvNet
from senet.preprocessing import Preprocessing
from senet.surgery import InsertionPoint, Report, apply_insertion_points, plan
from senet.surgery.module_patterns import Where
from senet.tasks.head import HeadSpec, head_from_dict
from senet.tasks.library import from_torchvision, known_in_torchvision
from senet.tasks.task import RecipeView, Task
from senet.zoo import INSERTED, build_model, is_code, model_defaults

__all__ = ["DenseTask", "by_shape"]


class DenseTask(Task):
    """A task of images whose answers lie in the image.

    A task says of itself, beside what `Task` wants:
        heads: Name to head.
        default_head: The one where nobody says otherwise.
        default_size: Of images, where nobody says otherwise.
        crops: How its training images can be cropped.
        unread: Fields of a recipe that must be zero, having no effect.
    """

    heads: ClassVar[Mapping[str, type[HeadSpec]]]
    default_head: ClassVar[str]
    default_size: ClassVar[tuple[int, int]]
    crops: ClassVar[tuple[str, ...]]
    unread: ClassVar[tuple[str, ...]]
    has_heads = True

    @abstractmethod
    def transform(self, preprocessing: Preprocessing, recipe: RecipeView | None) -> JointTransform:
        """What happens to images and targets; `recipe` None is evaluation."""

    def check_recipe(self, recipe: RecipeView) -> None:
        """Raise a `SenetError` for what has no effect here."""
        check_augmentation(recipe.augmentation, self.crops, self.name)
        for name in self.unread:
            if getattr(recipe, name):
                raise SenetError(f"{name}={getattr(recipe, name)} has no effect on {self.name}; use 0")

    def datasets(
        self, data: Data, preprocessing: Preprocessing, recipe: RecipeView
    ) -> tuple[DenseDataset, DenseDataset]:
        """Varied images to train on, batched by shape; whole ones to validate on."""
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
        """Whether training images keep their own shapes, so that alike ones should come together."""
        return recipe.augmentation.crop != "scale-jitter"

    def evaluated(self, source: DenseSource, preprocessing: Preprocessing, *, corrupt: str = "skip") -> DenseDataset:
        """Whole images with their targets."""
        return DenseDataset(source, self.transform(preprocessing, None), corrupt=corrupt)

    # Answers.

    @abstractmethod
    def predictions(self, model: nn.Module, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Any]:
        """What a network in evaluation mode says of transformed images, at their images' height and width."""

    @abstractmethod
    def draw(self, image: Image.Image, answer: Any, classes: Sequence[str], *, least: float = 0.5) -> Image.Image:
        """The answer painted over the image; boxes with a score below `least` are left out."""

    # Networks.

    def adapted(self, preprocessing: Preprocessing) -> Preprocessing:
        """A classifier's path of images, as its backbone wants them here: the whole image at this task's size."""
        return replace(preprocessing, size=self.default_size, crop_fraction=1.0)

    def defaults(self, text: str) -> tuple[int, Preprocessing]:
        """Classes and path of images of a network, where nobody says otherwise."""
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
        """Build what a command line's `--model` and `--head` name, and insert what surgery had inserted.

        Args:
            text: One of `list_models()` for a backbone; `torchvision:NAME` or `module:function` for a whole network.
            num_classes: Classes.
            preprocessing: What images go through.
            options: Options of this package's networks.
            head: As `HeadSpec.to_dict` writes it; and, for any network, `INSERTED`.
            pretrained: With public weights, of the backbone or of the whole network.

        Raises:
            SenetError: There is no such network or head, or it doesn't take these options.
            CheckpointError: The public weights can't be had.
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
            raise SenetError(f"{next(iter(options))} is an option of this package's networks; {text} is none of them")
        elif is_code(text):
            model = build_model(text, num_classes=num_classes, in_channels=preprocessing.in_channels)
        else:
            model = from_torchvision(text, self.name, num_classes, preprocessing, pretrained=pretrained)
        apply_insertion_points(model, points)
        return model

    def backbone(self, model: nn.Module) -> Backbone | None:
        """The backbone of this package inside; None in another library's network."""
        return next((module for module in model.modules() if isinstance(module, Backbone)), None)

    def plan(self, model: nn.Module, preprocessing: Preprocessing, *, where: Where = "auto", **wanted: Any) -> Report:
        """Where attention goes: into the backbone if one can tell which it is; else, or with `where`, anywhere."""
        root = self._body(model) if where == "auto" else ""
        if not root:
            return super().plan(model, preprocessing, where=where, **wanted)
        image = torch.zeros(1, preprocessing.in_channels, *preprocessing.size)
        return plan(model.get_submodule(root), example_inputs=[image], where=where, **wanted).within(root)

    def _body(self, model: nn.Module) -> str:
        """Path of the backbone; empty if none can be told."""
        modules = dict(model.named_modules())
        own = next((path for path, module in modules.items() if isinstance(module, Backbone)), None)
        return own or next((path for path in ("backbone.body", "backbone") if path in modules), "")


def by_shape(images: Sequence[Tensor]) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Images of one shape together, with their positions.

    Padding images to a common size would let one's answer depend on its neighbours: attention averages over the border.
    """
    alike: dict[torch.Size, list[int]] = defaultdict(list)
    for number, image in enumerate(images):
        alike[image.shape].append(number)
    for numbers in alike.values():
        yield numbers, [images[number] for number in numbers]
